//! Certificate revocation lists: of a `crl` field, and of what stands between the certificates of a bundle of anchors.

use std::time::Duration;

use rustls::pki_types::UnixTime;
use webpki::{
    CertRevocationList, ExpirationPolicy, OwnedCertRevocationList, RevocationCheckDepth, UnknownStatusPolicy,
};
use x509_parser::prelude::{CertificateRevocationList as Parsed, FromDer};

use super::material;
use crate::config::{Compiled, Problems};

/// One list.
#[derive(Debug)]
pub struct Crl {
    list: CertRevocationList<'static>,
    /// `thisUpdate`, which webpki does not look at, and `nextUpdate`, in seconds since the epoch.
    from: i64,
    until: i64,
}

/// What a chain is checked against.
pub struct Revocation<'a> {
    lists: Vec<&'a Crl>,
    borrowed: Vec<&'a CertRevocationList<'static>>,
    now: i64,
    leaf_only: bool,
    /// `allow_expired_certificate`: no dates are looked at.
    allow_expired: bool,
}

impl Crl {
    /// All lists of a PEM bundle, which may have none.
    ///
    /// # Errors
    /// A list that is none, or of a kind that cannot be checked against: nobody shall pass for its being left out.
    pub fn read(pem: &[u8]) -> Compiled<Vec<Self>> {
        let lists = material::revocation_lists(pem)?;
        lists.iter().map(|der| Self::parse(der)).collect()
    }

    fn parse(der: &[u8]) -> Compiled<Self> {
        let list =
            OwnedCertRevocationList::from_der(der).map_err(|error| Problems::one("", format!("bad CRL: {error}")))?;
        let (_, parsed) = Parsed::from_der(der).map_err(|error| Problems::one("", format!("bad CRL: {error}")))?;
        Ok(Self {
            list: list.into(),
            from: parsed.last_update().timestamp(),
            until: parsed.next_update().map_or(i64::MAX, |time| time.timestamp()),
        })
    }

    fn is_current(&self, now: i64) -> bool {
        (self.from..=self.until).contains(&now)
    }
}

impl<'a> Revocation<'a> {
    /// Of several lists of one issuer the first one counts for webpki, and one that is valid at the moment for BoringSSL.
    pub fn new(lists: impl Iterator<Item = &'a Crl>, now: UnixTime, leaf_only: bool, allow_expired: bool) -> Self {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let mut lists: Vec<&Crl> = lists.collect();
        lists.sort_by_key(|list| !list.is_current(now));
        Self {
            borrowed: lists.iter().map(|entry| &entry.list).collect(),
            lists,
            now,
            leaf_only,
            allow_expired,
        }
    }

    /// Whether there is nothing to check against.
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    /// For webpki; none where nothing is checked.
    pub fn options(&self) -> Option<webpki::RevocationOptions<'_>> {
        let depth = match self.leaf_only {
            true => RevocationCheckDepth::EndEntity,
            false => RevocationCheckDepth::Chain,
        };
        let expiration = match self.allow_expired {
            true => ExpirationPolicy::Ignore,
            false => ExpirationPolicy::Enforce,
        };
        let builder = webpki::RevocationOptionsBuilder::new(&self.borrowed).ok()?;
        let builder = builder.with_depth(depth).with_status_policy(UnknownStatusPolicy::Deny);
        Some(builder.with_expiration_policy(expiration).build())
    }

    /// What webpki leaves out: a list that its path was checked against and that is not valid yet.
    ///
    /// # Errors
    /// `CrlExpired`, of a list whose update is still to come.
    pub fn check_begun(&self, path: &webpki::VerifiedPath<'_>) -> Result<(), webpki::Error> {
        if self.allow_expired {
            return Ok(());
        }
        let above = path.intermediate_certificates().map(|certificate| certificate.issuer());
        let above = above.filter(|_| !self.leaf_only);
        for issuer in above.chain([path.end_entity().issuer()]) {
            let list = self.lists.iter().find(|entry| entry.list.issuer() == issuer);
            if let Some(list) = list.filter(|list| self.now < list.from) {
                return Err(webpki::Error::CrlExpired {
                    time: unix(self.now),
                    next_update: unix(list.from),
                });
            }
        }
        Ok(())
    }
}

fn unix(seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap_or_default()))
}

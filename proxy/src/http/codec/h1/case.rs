//! How header names are spelled on an HTTP/1 wire (`header_key_format`). Inside the proxy they are lower-case.

use bytes::Bytes;

/// `Http1ProtocolOptions.header_key_format`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderCase {
    #[default]
    Lower,
    /// `proper_case_words`: `Content-Type`.
    Proper,
    /// `preserve_case`: names that came with a message leave as they came.
    Preserve {
        /// `formatter_type_on_envoy_headers: PROPER_CASE`, for names that did not.
        proper_others: bool,
    },
}

/// In a message's extensions: how its names were spelled, where that is to be kept.
#[derive(Clone, Debug, Default)]
pub struct OriginalNames {
    /// First come first.
    names: Vec<Bytes>,
    proper_others: bool,
}

impl OriginalNames {
    /// Of a head's names. `None`: nothing is to be kept.
    pub(super) fn of(case: HeaderCase, names: impl Iterator<Item = Bytes>) -> Option<Self> {
        let HeaderCase::Preserve { proper_others } = case else {
            return None;
        };
        Some(Self {
            names: names.collect(),
            proper_others,
        })
    }

    fn spell(&self, name: &mut [u8]) {
        match self.names.iter().find(|known| known.eq_ignore_ascii_case(name)) {
            Some(known) => name.copy_from_slice(known),
            None if self.proper_others => proper(name),
            None => {}
        }
    }
}

/// Spells the names of an encoded head: as the message's own say, else as the connection's options do.
pub(super) fn spell(head: &mut [u8], own: Option<&OriginalNames>, case: HeaderCase) {
    if own.is_none() && case != HeaderCase::Proper {
        return;
    }
    let Some(mut at) = memchr::memchr(b'\n', head).map(|end| end + 1) else {
        return;
    };
    while let Some(line) = head.get_mut(at..).filter(|line| !line.is_empty()) {
        let Some(end) = memchr::memchr(b'\n', line) else { return };
        let name = memchr::memchr(b':', &line[..end]).unwrap_or(0);
        match own {
            Some(own) => own.spell(&mut line[..name]),
            None => proper(&mut line[..name]),
        }
        at += end + 1;
    }
}

/// Upper case at the beginning of each word.
fn proper(name: &mut [u8]) {
    let mut begins = true;
    for byte in name {
        if begins {
            byte.make_ascii_uppercase();
        }
        begins = !byte.is_ascii_alphanumeric();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelled(own: Option<&OriginalNames>, case: HeaderCase) -> String {
        let mut head = b"GET /a:b HTTP/1.1\r\nhost: x\r\nx-b3-trace_id: a: b\r\nx-: \r\n\r\n".to_vec();
        spell(&mut head, own, case);
        String::from_utf8(head).expect("text")
    }

    #[test]
    fn names_are_spelled_and_values_are_not() {
        let lower = spelled(None, HeaderCase::Lower);
        assert_eq!(spelled(None, HeaderCase::Preserve { proper_others: true }), lower);
        let proper = "GET /a:b HTTP/1.1\r\nHost: x\r\nX-B3-Trace_Id: a: b\r\nX-: \r\n\r\n";
        assert_eq!(spelled(None, HeaderCase::Proper), proper);
    }

    #[test]
    fn what_came_spelled_leaves_so() {
        let names = ["X-b3-TRACE_id", "x-"].map(|name| Bytes::from_static(name.as_bytes()));
        for (proper_others, host) in [(false, "host"), (true, "Host")] {
            let case = HeaderCase::Preserve { proper_others };
            let own = OriginalNames::of(case, names.clone().into_iter()).expect("kept");
            let head = spelled(Some(&own), HeaderCase::Proper);
            assert!(
                head.contains(&format!("\r\n{host}: x\r\nX-b3-TRACE_id: a: b\r\nx-: \r\n")),
                "{head}"
            );
        }
        assert!(OriginalNames::of(HeaderCase::Proper, names.into_iter()).is_none());
    }
}

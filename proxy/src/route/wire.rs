//! A walk over encoded fields without copies: what a table needs to find its virtual hosts before anything is decoded.

use std::ops::Range;

use crate::config::Problems;

/// One field: its number, the whole field's place, and where its payload lies if it has a length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub number: u32,
    pub whole: Range<usize>,
    pub payload: Option<Range<usize>>,
}

/// The fields of the message at `range` of `bytes`; places are relative to `bytes`.
pub fn fields(bytes: &[u8], range: Range<usize>) -> Fields<'_> {
    let end = range.end.min(bytes.len());
    Fields {
        bytes: &bytes[..end],
        at: range.start.min(end),
    }
}

/// See [`fields`].
pub struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Fields<'_> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn skip(&mut self, count: u64) -> Option<Range<usize>> {
        let end = self.at.checked_add(usize::try_from(count).ok()?)?;
        if end > self.bytes.len() {
            return None;
        }
        let range = self.at..end;
        self.at = end;
        Some(range)
    }

    fn read(&mut self) -> Option<Field> {
        let start = self.at;
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).ok().filter(|number| *number > 0)?;
        let payload = match key & 7 {
            0 => self.varint().map(|_| None)?,
            1 => self.skip(8).map(|_| None)?,
            2 => {
                let length = self.varint()?;
                Some(self.skip(length)?)
            }
            5 => self.skip(4).map(|_| None)?,
            _ => return None,
        };
        Some(Field {
            number,
            whole: start..self.at,
            payload,
        })
    }
}

impl Iterator for Fields<'_> {
    type Item = Result<Field, Problems>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let field = self.read();
        if field.is_none() {
            self.at = self.bytes.len();
        }
        Some(field.ok_or_else(|| Problems::one("", "the message is truncated or malformed")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use remora_proto::pb::envoy::config::route::v3::{RouteConfiguration, VirtualHost};

    #[test]
    fn finds_repeated_messages_in_place() {
        let config = RouteConfiguration {
            name: "r".into(),
            virtual_hosts: vec![
                VirtualHost::default(),
                VirtualHost {
                    name: "b".into(),
                    ..Default::default()
                },
            ],
            ignore_port_in_host_matching: true,
            ..Default::default()
        };
        let bytes = config.encode_to_vec();
        let found: Vec<_> = fields(&bytes, 0..bytes.len())
            .map(|field| field.expect("well formed"))
            .collect();
        assert_eq!(
            found.iter().map(|field| field.number).collect::<Vec<_>>(),
            [1, 2, 2, 14]
        );
        let second = found[2].payload.clone().expect("a message");
        assert_eq!(VirtualHost::decode(&bytes[second]).expect("decodes").name, "b");
    }

    proptest::proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>) {
            for field in fields(&bytes, 0..bytes.len()).flatten() {
                proptest::prop_assert!(field.whole.end <= bytes.len());
            }
        }
    }
}

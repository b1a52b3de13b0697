//! The index over domains: exact, `*suffix` longest first, `prefix*` longest first, `*` (spec D.1).
//!
//! Entries point into the encoded table, so a domain costs 12 bytes and its share of a hash table.

use hashbrown::HashTable;
use smallvec::SmallVec;

/// Where a domain lies in the table's bytes, and the virtual host that it leads to.
#[derive(Clone, Copy, Debug)]
struct Entry {
    at: u32,
    len: u32,
    host: u32,
}

impl Entry {
    fn name<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let at = self.at as usize;
        bytes.get(at..at + self.len as usize).unwrap_or_default()
    }
}

/// Domains of one kind, found by the hash of their lower-case bytes.
#[derive(Default)]
struct Names(HashTable<Entry>);

/// Wildcards of one kind and the lengths that occur, longest first.
#[derive(Default)]
struct Wildcards {
    names: Names,
    lengths: Vec<u32>,
}

/// See the file's top.
#[derive(Default)]
pub struct DomainIndex {
    exact: Names,
    suffixes: Wildcards,
    prefixes: Wildcards,
    any: Option<u32>,
}

impl DomainIndex {
    /// Adds the domain at `at..at + len` of `bytes`. `false`: it is there already.
    pub fn insert(&mut self, bytes: &[u8], at: u32, len: u32, host: u32) -> bool {
        let whole = Entry { at, len, host };
        let name = whole.name(bytes);
        if name == b"*" {
            return self.any.replace(host).is_none();
        }
        if name.first() == Some(&b'*') {
            return self.suffixes.insert(
                bytes,
                Entry {
                    at: at + 1,
                    len: len - 1,
                    host,
                },
            );
        }
        if name.last() == Some(&b'*') {
            return self.prefixes.insert(bytes, Entry { at, len: len - 1, host });
        }
        self.exact.insert(bytes, whole)
    }

    /// Gives back what growing left over.
    pub fn finish(&mut self, bytes: &[u8]) {
        self.exact.shrink(bytes);
        for wildcards in [&mut self.suffixes, &mut self.prefixes] {
            wildcards.names.shrink(bytes);
            wildcards.lengths.sort_unstable_by(|a, b| b.cmp(a));
            wildcards.lengths.shrink_to_fit();
        }
    }

    /// The virtual host of `authority`, compared without case.
    pub fn find(&self, bytes: &[u8], authority: &[u8]) -> Option<u32> {
        if self.has_only_any() {
            return self.any;
        }
        if authority.is_empty() {
            return None;
        }
        let lower: SmallVec<[u8; 128]> = authority.iter().map(u8::to_ascii_lowercase).collect();
        let tail = |len: usize| &lower[lower.len() - len..];
        let head = |len: usize| &lower[..len];
        (self.exact.find(bytes, &lower))
            .or_else(|| self.suffixes.find(bytes, lower.len(), tail))
            .or_else(|| self.prefixes.find(bytes, lower.len(), head))
            .or(self.any)
    }

    fn has_only_any(&self) -> bool {
        self.exact.0.is_empty() && self.suffixes.names.0.is_empty() && self.prefixes.names.0.is_empty()
    }
}

impl Wildcards {
    fn insert(&mut self, bytes: &[u8], entry: Entry) -> bool {
        if !self.lengths.contains(&entry.len) {
            self.lengths.push(entry.len);
        }
        self.names.insert(bytes, entry)
    }

    fn find<'a>(&self, bytes: &[u8], len: usize, part: impl Fn(usize) -> &'a [u8]) -> Option<u32> {
        // A wildcard stands for at least one byte: `*.foo.com` does not match `.foo.com`.
        let shorter = self
            .lengths
            .iter()
            .map(|wildcard| *wildcard as usize)
            .filter(|wildcard| *wildcard < len);
        shorter
            .into_iter()
            .find_map(|wildcard| self.names.find(bytes, part(wildcard)))
    }
}

impl Names {
    fn insert(&mut self, bytes: &[u8], entry: Entry) -> bool {
        let name = lower(entry.name(bytes));
        if self.find(bytes, &name).is_some() {
            return false;
        }
        self.0
            .insert_unique(hash(&name), entry, |other| hash(&lower(other.name(bytes))));
        true
    }

    /// `name` is lower-case.
    fn find(&self, bytes: &[u8], name: &[u8]) -> Option<u32> {
        let same = |entry: &Entry| entry.name(bytes).eq_ignore_ascii_case(name);
        self.0.find(hash(name), same).map(|entry| entry.host)
    }

    fn shrink(&mut self, bytes: &[u8]) {
        self.0.shrink_to_fit(|entry| hash(&lower(entry.name(bytes))));
    }
}

fn lower(name: &[u8]) -> SmallVec<[u8; 128]> {
    name.iter().map(u8::to_ascii_lowercase).collect()
}

/// The names come from the control plane, requests only look up: no seed is needed.
fn hash(name: &[u8]) -> u64 {
    xxhash_rust::xxh64::xxh64(name, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(domains: &[&str]) -> (Vec<u8>, DomainIndex) {
        let bytes = domains.concat().into_bytes();
        let mut index = DomainIndex::default();
        let mut at = 0;
        for (host, domain) in domains.iter().enumerate() {
            assert!(index.insert(&bytes, at, domain.len() as u32, host as u32), "{domain}");
            at += domain.len() as u32;
        }
        index.finish(&bytes);
        (bytes, index)
    }

    #[test]
    fn precedence_is_envoys() {
        let domains = [
            "Foo.com",
            "*.foo.com",
            "*-bar.foo.com",
            "foo.*",
            "foo-*",
            "*",
            "*.com",
            "foo.com:80",
        ];
        let (bytes, index) = index(&domains);
        let cases: &[(&str, Option<u32>)] = &[
            ("foo.com", Some(0)),
            ("FOO.COM", Some(0)),
            ("a.foo.com", Some(1)),
            ("a-bar.foo.com", Some(2)),
            ("-bar.foo.com", Some(1)),
            (".foo.com", Some(6)),
            ("foo.org", Some(3)),
            ("foo-x", Some(4)),
            ("foo.", Some(5)),
            ("foo.com:80", Some(7)),
            ("foo.com:81", Some(3)),
            ("other", Some(5)),
            ("", None),
        ];
        for (host, expected) in cases {
            assert_eq!(index.find(&bytes, host.as_bytes()), *expected, "{host}");
        }
    }

    #[test]
    fn a_lone_star_serves_even_an_empty_authority() {
        let (bytes, index) = index(&["*"]);
        assert_eq!(index.find(&bytes, b""), Some(0));
    }

    #[test]
    fn duplicates_are_seen_without_case() {
        let bytes = b"a.comA.com**".to_vec();
        let mut index = DomainIndex::default();
        assert!(index.insert(&bytes, 0, 5, 0));
        assert!(!index.insert(&bytes, 5, 5, 1));
        assert!(index.insert(&bytes, 10, 1, 0));
        assert!(!index.insert(&bytes, 11, 1, 1));
    }
}

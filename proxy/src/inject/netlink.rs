//! The kernel's addresses, routes and routing rules, over rtnetlink: an image need not have `ip`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

use super::plan::Family;

/// A socket to the kernel of the current network namespace.
pub struct Netlink(OwnedFd);

/// What to do with a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Add,
    Remove,
}

impl Netlink {
    /// # Errors
    /// What the system says.
    pub fn open() -> io::Result<Self> {
        // Protocol 0 of netlink is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Self(socket))
    }

    /// Addresses of all interfaces.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn addresses(&self) -> io::Result<Vec<IpAddr>> {
        // `ifaddrmsg`, all zero: every family, every interface.
        let bodies = self.dump(RTM_GETADDR, RTM_NEWADDR, &[0; 8])?;
        Ok(bodies.iter().filter_map(|body| address_of(body)).collect())
    }

    /// Bodies of the `kind` messages that answer `question`.
    fn dump(&self, question: u16, kind: u16, head: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.send(Message::new(question, NLM_F_REQUEST | NLM_F_DUMP, head))?;
        let mut found = Vec::new();
        let mut buffer = vec![0; BUFFER];
        loop {
            let (received, _) = recv(&self.0, buffer.as_mut_slice(), RecvFlags::empty())?;
            for (answer, body) in messages(buffer.get(..received).unwrap_or_default()) {
                match answer {
                    NLMSG_DONE => return Ok(found),
                    NLMSG_ERROR => return Err(error_of(body)),
                    _ if answer == kind => found.push(body.to_vec()),
                    _ => {}
                }
            }
        }
    }

    /// `ip -6 addr add ::6/128 dev lo`: unlike IPv4's 127/8, IPv6 has one loopback address only.
    ///
    /// # Errors
    /// What the kernel says; that it is so already is none.
    pub fn passthrough_address(&self, change: Change) -> io::Result<()> {
        let address = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6).octets();
        let [a, b, c, d] = LOOPBACK_INDEX.to_ne_bytes();
        let head = [AF_INET6, 128, 0, 0, a, b, c, d];
        let mut message = Message::change(change, RTM_NEWADDR, RTM_DELADDR, &head);
        message.attribute(IFA_LOCAL, &address);
        message.attribute(IFA_ADDRESS, &address);
        self.ask(message).map(drop)
    }

    /// `ip rule add fwmark MARK lookup TABLE`
    ///
    /// # Errors
    /// What the kernel says; that it is so already is none.
    pub fn mark_rule(&self, change: Change, family: Family, mark: u32, table: u32) -> io::Result<()> {
        // The kernel takes the same rule any number of times.
        if change == Change::Add && self.has_mark_rule(family, mark, table)? {
            return Ok(());
        }
        // `fib_rule_hdr`; the table stands in an attribute, where it has more than 8 bits.
        let head = [of(family), 0, 0, 0, 0, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0];
        loop {
            let mut message = Message::change(change, RTM_NEWRULE, RTM_DELRULE, &head);
            message.attribute(FRA_FWMARK, &mark.to_ne_bytes());
            message.attribute(FRA_TABLE, &table.to_ne_bytes());
            let changed = self.ask(message)?;
            if change == Change::Add || !changed {
                return Ok(());
            }
        }
    }

    fn has_mark_rule(&self, family: Family, mark: u32, table: u32) -> io::Result<bool> {
        Ok(self.mark_rules(family)?.contains(&(mark, table)))
    }

    /// Marks and tables of all rules that go by a whole mark and by nothing else.
    fn mark_rules(&self, family: Family) -> io::Result<Vec<(u32, u32)>> {
        let bodies = self.dump(RTM_GETRULE, RTM_NEWRULE, &[of(family), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])?;
        Ok(bodies.iter().filter_map(|body| mark_rule_of(body)).collect())
    }

    /// Marks and tables of rules that lead all packets of a mark to the loopback interface, which only TPROXY needs: the table has the route of
    /// [`local_route`](Self::local_route) and no other.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn tproxy_rules(&self, family: Family) -> io::Result<Vec<(u32, u32)>> {
        let mut rules = self.mark_rules(family)?;
        rules.sort_unstable();
        rules.dedup();
        if rules.is_empty() {
            return Ok(rules);
        }
        let bodies = self.dump(
            RTM_GETROUTE,
            RTM_NEWROUTE,
            &[of(family), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        )?;
        let routes: Vec<(u32, bool)> = bodies.iter().filter_map(|body| route_of(body)).collect();
        rules.retain(|(_, table)| {
            let mut of_table = routes.iter().filter(|(of, _)| of == table).peekable();
            of_table.peek().is_some() && of_table.all(|(_, is_ours)| *is_ours)
        });
        Ok(rules)
    }

    /// `ip route add local default dev lo table TABLE`
    ///
    /// # Errors
    /// What the kernel says; that it is so already is none.
    pub fn local_route(&self, change: Change, family: Family, table: u32) -> io::Result<()> {
        let head = [
            of(family),
            0,
            0,
            0,
            0,
            RTPROT_BOOT,
            RT_SCOPE_HOST,
            RTN_LOCAL,
            0,
            0,
            0,
            0,
        ];
        let mut message = Message::change(change, RTM_NEWROUTE, RTM_DELROUTE, &head);
        message.attribute(RTA_TABLE, &table.to_ne_bytes());
        message.attribute(RTA_OIF, &LOOPBACK_INDEX.to_ne_bytes());
        self.ask(message).map(drop)
    }

    fn send(&self, message: Message) -> io::Result<()> {
        send(&self.0, &message.finish(), SendFlags::empty())?;
        Ok(())
    }

    /// Sends a change and waits for its acknowledgement; whether anything changed.
    fn ask(&self, message: Message) -> io::Result<bool> {
        let removing = message.removing;
        self.send(message)?;
        let mut buffer = vec![0; BUFFER];
        let (received, _) = recv(&self.0, buffer.as_mut_slice(), RecvFlags::empty())?;
        let answer = messages(buffer.get(..received).unwrap_or_default()).next();
        let Some((NLMSG_ERROR, body)) = answer else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let error = error_of(body);
        match error.raw_os_error().unwrap_or_default() {
            0 => Ok(true),
            libc::EEXIST => Ok(false),
            // Nothing there to remove; each kind of thing has its own way to say so.
            libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT if removing => Ok(false),
            _ => Err(error),
        }
    }
}

/// A request in the making.
struct Message {
    bytes: Vec<u8>,
    removing: bool,
}

impl Message {
    fn new(kind: u16, flags: u16, head: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend(head);
        Self { bytes, removing: false }
    }

    fn change(change: Change, add: u16, remove: u16, head: &[u8]) -> Self {
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        match change {
            Change::Add => Self::new(add, flags | NLM_F_CREATE | NLM_F_EXCL, head),
            Change::Remove => Self {
                removing: true,
                ..Self::new(remove, flags, head)
            },
        }
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(aligned(self.bytes.len()), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes
    }
}

/// Messages in one datagram: kind and body.
fn messages(datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*rest.get(4..)?.first_chunk()?);
        let body = rest.get(HEADER..length)?;
        rest = rest.get(aligned(length)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// Attributes behind a head of `head` bytes: kind and value.
fn attributes(body: &[u8], head: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = body.get(head..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = u16::from_ne_bytes(*rest.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?);
        let value = rest.get(4..length)?;
        rest = rest.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The address of an `ifaddrmsg`.
fn address_of(body: &[u8]) -> Option<IpAddr> {
    let (_, value) = attributes(body, 8).find(|(kind, _)| *kind == IFA_ADDRESS)?;
    let v4 = <[u8; 4]>::try_from(value).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
    v4.or_else(|_| <[u8; 16]>::try_from(value).map(|octets| IpAddr::V6(Ipv6Addr::from(octets))))
        .ok()
}

/// Mark and table of a `fib_rule_hdr` that goes by a whole mark alone.
fn mark_rule_of(body: &[u8]) -> Option<(u32, u32)> {
    let (mut mark, mut table) = (None, None);
    // Lengths of destination and source, and what is done.
    if body.get(1..3)? != [0, 0] || *body.get(7)? != FR_ACT_TO_TBL {
        return None;
    }
    for (kind, value) in attributes(body, 12) {
        let number = value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
        match kind {
            FRA_FWMARK => mark = number,
            FRA_TABLE => table = number,
            FRA_FWMASK if number != Some(u32::MAX) => return None,
            FRA_IIFNAME | FRA_OIFNAME => return None,
            _ => {}
        }
    }
    Some((mark?, table?))
}

/// The table of an `rtmsg`, and whether it is the route of everything to the loopback interface.
fn route_of(body: &[u8]) -> Option<(u32, bool)> {
    let (length, kind) = (*body.get(1)?, *body.get(7)?);
    let mut table = u32::from(*body.get(4)?);
    let mut interface = None;
    for (kind, value) in attributes(body, 12) {
        let number = value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
        match kind {
            RTA_TABLE => table = number?,
            RTA_OIF => interface = number,
            _ => {}
        }
    }
    let is_ours = length == 0 && kind == RTN_LOCAL && interface == Some(LOOPBACK_INDEX);
    Some((table, is_ours))
}

/// The error of an acknowledgement; 0 is none.
fn error_of(body: &[u8]) -> io::Error {
    let code = body
        .first_chunk()
        .map_or(-libc::EIO, |bytes| i32::from_ne_bytes(*bytes));
    io::Error::from_raw_os_error(-code)
}

const fn of(family: Family) -> u8 {
    match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    }
}

const fn aligned(length: usize) -> usize {
    (length + 3) & !3
}

/// The kernel makes `lo` first, in every namespace.
const LOOPBACK_INDEX: u32 = 1;
/// Of `nlmsghdr`.
const HEADER: usize = 16;
/// More than any message of the kernel's.
const BUFFER: usize = 32 * 1024;

// `linux/netlink.h`, `linux/rtnetlink.h`, `linux/fib_rules.h`, `linux/if_addr.h`.
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_OIFNAME: u16 = 17;
const FR_ACT_TO_TBL: u8 = 1;
const RTA_OIF: u16 = 4;
const RTA_TABLE: u16 = 15;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_HOST: u8 = 254;
const RTN_LOCAL: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_its_addresses() {
        let addresses = Netlink::open().unwrap().addresses().unwrap();
        assert!(
            addresses.iter().any(IpAddr::is_loopback),
            "no loopback address in {addresses:?}"
        );
    }

    #[test]
    fn truncated_messages_end_the_list() {
        let mut message = Message::new(RTM_NEWADDR, 0, &[0; 8]);
        message.attribute(IFA_ADDRESS, &[10, 0, 0, 1]);
        let whole = message.finish();
        let twice = [whole.clone(), whole.clone()].concat();
        let found: Vec<_> = messages(&twice)
            .filter_map(|(kind, body)| address_of(body).map(|address| (kind, address)))
            .collect();
        assert_eq!(found, vec![(RTM_NEWADDR, "10.0.0.1".parse().unwrap()); 2]);
        for length in 0..whole.len() {
            assert_eq!(messages(&whole[..length]).count(), 0, "{length}");
        }
    }
}

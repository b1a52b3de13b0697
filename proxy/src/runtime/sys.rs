//! The only file with `unsafe`: socket options that `socket2` and `rustix` do not offer, and what the kernel is told of memory (D13).
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sets an option by its numbers: Envoy's `socket_options`, whose level and name only the configuration knows.
///
/// # Errors
/// What `setsockopt` says.
pub fn set_socket_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the descriptor is borrowed, so open for the whole call; the kernel reads `length` bytes of `value` and keeps nothing.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), length) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `IP_BIND_ADDRESS_NO_PORT`: the port is chosen at connect, so that a source address is good for 64 k ports per destination.
pub fn bind_address_no_port(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_socket_option(
        socket,
        libc::IPPROTO_IP,
        libc::IP_BIND_ADDRESS_NO_PORT,
        &1_i32.to_ne_bytes(),
    )
}

/// Takes the pages of the program's file out of this process: code and constants, of which the start has touched what serving never does.
/// They stay in the page cache, and whatever runs next maps its own again, 64 KiB at a time. Returns how many bytes that may have been.
///
/// # Errors
/// `/proc` cannot be read, or the kernel does not want to; nothing is lost then.
pub fn release_program_pages() -> io::Result<usize> {
    let code = release_program_pages as fn() -> io::Result<usize> as usize;
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let mut released = 0;
    for range in program_ranges(&maps, code) {
        // SAFETY: a private mapping of a file that is not writable, and that nobody has written to (no relocation is in it): its pages are
        // those of the file, from which they come again.
        let result = unsafe { libc::madvise(range.start as *mut _, range.len(), libc::MADV_DONTNEED) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        released += range.len();
    }
    Ok(released)
}

unsafe extern "C" {
    /// mimalloc's, the one allocator (`crate::Allocator`).
    safe fn mi_collect(force: bool);
}

/// Gives the memory back that this thread has freed, and what ended threads have left behind: the allocator would keep it for what comes next.
pub fn release_unused_memory() {
    mi_collect(true);
}

/// The mapping that `code` lies in, and that of the constants before it: the beginning of the same file, read-only from the start. What the
/// loader has written to and protected after that (`.data.rel.ro`) begins elsewhere in the file.
fn program_ranges(maps: &str, code: usize) -> Vec<Range<usize>> {
    let mappings: Vec<_> = maps.lines().filter_map(mapping).collect();
    let Some((_, _, _, file)) = mappings
        .iter()
        .find(|(range, access, ..)| range.contains(&code) && *access == "r-xp")
    else {
        return Vec::new();
    };
    let of_file = mappings.iter().filter(|(.., other)| other == file);
    let unwritten = of_file.filter(|(range, access, offset, _)| match *access {
        "r-xp" => range.contains(&code),
        "r--p" => *offset == 0,
        _ => false,
    });
    unwritten.map(|(range, ..)| range.clone()).collect()
}

/// A line of `/proc/<pid>/maps`: range, access, offset, and which file (device and inode).
fn mapping(line: &str) -> Option<(Range<usize>, &str, u64, (&str, &str))> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
    let (access, offset) = (words.next()?, u64::from_str_radix(words.next()?, 16).ok()?);
    let file = (words.next()?, words.next()?);
    (file.1 != "0").then_some((range, access, offset, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
55d0a0000000-55d0a04e4000 r--p 00000000 08:01 77 /usr/local/bin/remora
55d0a04e4000-55d0a132a000 r-xp 004e3000 08:01 77 /usr/local/bin/remora
55d0a132a000-55d0a13aa000 r--p 01328000 08:01 77 /usr/local/bin/remora
55d0a13aa000-55d0a13ac000 rw-p 013a8000 08:01 77 /usr/local/bin/remora
55d0a2000000-55d0a2100000 rw-p 00000000 00:00 0 [heap]
7f0000000000-7f0000020000 r--p 00000000 08:01 99 /lib/libc.so.6
7f0000020000-7f0000100000 r-xp 00020000 08:01 99 /lib/libc.so.6
";

    #[test]
    fn only_what_nobody_wrote_of_the_program_is_released() {
        let ranges = program_ranges(MAPS, 0x55d0_a050_0000);
        assert_eq!(
            ranges,
            [0x55d0_a000_0000..0x55d0_a04e_4000, 0x55d0_a04e_4000..0x55d0_a132_a000]
        );
        assert!(program_ranges(MAPS, 0x1000).is_empty());
    }

    #[test]
    fn the_program_goes_on_after_its_pages_are_released() {
        assert!(release_program_pages().unwrap() > 1 << 20);
        assert!(release_program_pages().unwrap() > 1 << 20, "and again");
    }
}

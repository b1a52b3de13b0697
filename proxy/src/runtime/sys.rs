//! The only file with `unsafe`: socket options that `socket2` and `rustix` do not offer (D13).
#![allow(unsafe_code)]

use std::io;
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

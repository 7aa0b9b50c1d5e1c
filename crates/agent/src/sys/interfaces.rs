//! Network interfaces: bringing loopback up and listing addresses. Nothing else about networks is known here.

use super::entropy::{check, last_errno};
use rustix::fd::AsRawFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr;

/// An address of an interface with the length of its network prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InterfaceAddress {
    /// The address.
    pub(crate) address: IpAddr,
    /// Leading one bits of its netmask.
    pub(crate) prefix: u32,
}

/// Sets IFF_UP on `lo`. The kernel then gives it 127.0.0.1/8 and ::1/128 by itself.
pub(crate) fn bring_loopback_up() -> Result<(), Errno> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: `ifreq` is a plain C structure for which all zero bytes are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes_with_nul()) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).map_err(|_| Errno::INVAL)?;
    // SAFETY: the socket is open, and `request` is a whole `ifreq` with a name that ends in NUL and the
    // member `ifru_flags` set, which is the one this request reads.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })
}

/// All IPv4 and IPv6 addresses of interfaces other than loopback, in the kernel's order.
pub(crate) fn addresses() -> Result<Vec<InterfaceAddress>, Errno> {
    let mut first: *mut libc::ifaddrs = ptr::null_mut();
    // SAFETY: `first` is a valid place for the list's head; on success it is freed below, exactly once.
    if unsafe { libc::getifaddrs(&raw mut first) } == -1 {
        return Err(last_errno());
    }
    let mut found = Vec::new();
    let mut next = first;
    // SAFETY: `next` is null or an element of the list that getifaddrs made and that is not yet freed.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        if entry.ifa_flags & libc::IFF_LOOPBACK.unsigned_abs() == 0 {
            // SAFETY: both pointers belong to the same unfreed element: null or a socket address each.
            let pair = unsafe { (ip(entry.ifa_addr), ip(entry.ifa_netmask)) };
            if let (Some(address), Some(mask)) = pair {
                found.push(InterfaceAddress { address, prefix: prefix_of(mask) });
            }
        }
    }
    // SAFETY: `first` came from the successful getifaddrs above, and no reference into the list is left.
    unsafe { libc::freeifaddrs(first) };
    Ok(found)
}

fn prefix_of(mask: IpAddr) -> u32 {
    match mask {
        IpAddr::V4(mask) => mask.to_bits().leading_ones(),
        IpAddr::V6(mask) => mask.to_bits().leading_ones(),
    }
}

/// The IP address in a socket address, or `None` for null and for other families.
///
/// # Safety
/// `address` is null or points to a socket address that is as long as its family says.
unsafe fn ip(address: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: the caller promises null or a valid socket address; every one begins with its family.
    let family = unsafe { address.as_ref() }?.sa_family;
    match libc::c_int::from(family) {
        libc::AF_INET => {
            // SAFETY: an address of this family is a `sockaddr_in`; read_unaligned asks no alignment.
            let v4 = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: an address of this family is a `sockaddr_in6`; read_unaligned asks no alignment.
            let v6 = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listing_addresses_leaves_loopback_out() {
        let addresses = addresses().unwrap();
        assert!(addresses.iter().all(|entry| !entry.address.is_loopback()));
    }

    #[test]
    fn a_netmask_is_its_leading_ones() {
        assert_eq!(prefix_of(Ipv4Addr::new(255, 255, 240, 0).into()), 20);
        assert_eq!(prefix_of(Ipv6Addr::UNSPECIFIED.into()), 0);
    }
}

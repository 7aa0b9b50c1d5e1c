//! Giving up what a VMM does not need: root, capabilities, its parent's session, most of its limits.
//!
//! Not responsible for files ([`super::mounts`]) and calls of the kernel ([`super::filter`]).

use super::identity::Claimed;
use super::{JailError, Limits};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, setsid, umask};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits, set_no_new_privs,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

/// With this limit no core is written, to a file or to a program: with 0 a program still gets one (core(5)), and 1
/// is what the kernel refuses in both cases.
const NO_CORE: u64 = 1;

/// No way back: root gives nothing, and nobody can change that.
const SECURE: CapabilitiesSecureBits = CapabilitiesSecureBits::NO_ROOT
    .union(CapabilitiesSecureBits::NO_ROOT_LOCKED)
    .union(CapabilitiesSecureBits::NO_SETUID_FIXUP)
    .union(CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED)
    .union(CapabilitiesSecureBits::KEEP_CAPS_LOCKED)
    .union(CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE)
    .union(CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED);

/// A session of its own, and files that are nobody else's.
pub(super) fn detach() -> Result<(), JailError> {
    // One who leads a session already has one of its own.
    match setsid() {
        Ok(_) | Err(Errno::PERM) => {}
        Err(errno) => return Err(JailError::privilege("begin a session")(errno)),
    }
    umask(Mode::RWXG | Mode::RWXO);
    Ok(())
}

/// Lowers the limits, hard and soft; none is ever raised.
pub(super) fn limit(limits: &Limits) -> Result<(), JailError> {
    let all = [
        (Resource::Core, NO_CORE),
        (Resource::Nproc, limits.threads),
        (Resource::Nofile, limits.open_files),
        (Resource::Fsize, limits.file_size),
        (Resource::Memlock, 0),
        (Resource::Msgqueue, 0),
        (Resource::Rtprio, 0),
        (Resource::Nice, 0),
    ];
    let address_space = limits.address_space.map(|bytes| (Resource::As, bytes));
    all.into_iter().chain(address_space).try_for_each(|(resource, value)| {
        let most = getrlimit(resource).maximum.map_or(value, |maximum| maximum.min(value));
        let lowered = setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) });
        lowered.map_err(JailError::privilege("lower a limit"))
    })
}

/// Gives up everything that makes this process more than any other. Order matters: the bounding set and the secure
/// bits need a capability, and so do groups, before the last ones go.
pub(super) fn give_up(claimed: Option<Claimed>) -> Result<(), JailError> {
    clear_ambient_capability_set().map_err(JailError::privilege("clear the ambient capabilities"))?;
    empty_bounding_set()?;
    set_capabilities_secure_bits(SECURE).map_err(JailError::privilege("set the secure bits"))?;
    if let Some(Claimed { uid, gid }) = claimed {
        set_thread_groups(&[]).map_err(JailError::privilege("give up groups"))?;
        set_thread_res_gid(gid, gid, gid).map_err(JailError::privilege("change the group"))?;
        set_thread_res_uid(uid, uid, uid).map_err(JailError::privilege("change the user"))?;
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none).map_err(JailError::privilege("give up capabilities"))?;
    set_no_new_privs(true).map_err(JailError::privilege("refuse new privileges"))
}

/// The kernel says where its capabilities end.
fn empty_bounding_set() -> Result<(), JailError> {
    for number in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            Err(Errno::INVAL) => return Ok(()),
            Err(errno) => return Err(JailError::privilege("empty the bounding set")(errno)),
        }
    }
    Ok(())
}

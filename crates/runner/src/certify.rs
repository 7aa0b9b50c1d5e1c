//! Certification: what must be true of a guest before anything may run in it. Fails closed.
//!
//! After a boot, clone, restore or resume the guest's clock is wrong, its random pool may be another guest's,
//! and it has the name of its template. The three are set, acknowledged and read back, in this order.

use crate::clock;
use crate::link::{Link, LinkError};
use outlast_model::{Certificate, ClockInterval, IncarnationId, VmId, timeout};
use outlast_wire::guest::{
    Clock, GuestMessage, HelloAck, HostMessage, Identity, Reseed, SetIdentity, guest_words,
};
use outlast_wire::intent::Purpose;
use rustix::rand::{GetRandomFlags, getrandom};
use std::time::Duration;
use thiserror::Error;

/// Entropy given to the guest, in bytes: twice what its generator's key holds.
const ENTROPY: usize = 64;

/// The guest is not fit to run.
#[derive(Debug, Error)]
pub(crate) enum CertifyError {
    /// The link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The host's generator.
    #[error("cannot draw entropy for the guest")]
    Entropy(#[source] rustix::io::Errno),
    /// The guest's clock runs at another rate than the host's.
    #[error("the guest says it has run for {guest_ms} ms, and {host_ms} ms have passed since it was started")]
    ClockRate {
        /// What the guest's clock says.
        guest_ms: u64,
        /// What the host's clock says.
        host_ms: u64,
    },
    /// The guest says it is somebody else.
    #[error("the guest's {what} is {found:?}, not {wanted:?}")]
    Identity {
        /// Host name or machine id.
        what: &'static str,
        /// What it must be.
        wanted: String,
        /// What it says.
        found: String,
    },
}

/// Who a guest is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Nameplate {
    host_name: String,
    machine_id: String,
}

impl Nameplate {
    /// A VM has its own name and the same machine id whenever it is started; everything else is a machine of its
    /// own, and is named after its incarnation.
    pub(crate) fn of(purpose: &Purpose, incarnation: IncarnationId) -> Self {
        let vm = match purpose {
            Purpose::Vm { vm, name, .. } => vm.parse::<VmId>().ok().map(|vm| (name, vm)),
            Purpose::Workload { .. } | Purpose::Template { .. } | Purpose::Canary => None,
        };
        match vm {
            Some((name, vm)) => Self { host_name: name.clone(), machine_id: vm.machine_id() },
            None => Self { host_name: incarnation.host_name(), machine_id: incarnation.machine_id() },
        }
    }
}

/// Certifies the guest behind `link`. The caller holds the deadline; a clock that cannot be brought within
/// the tolerance is sampled again until then.
pub(crate) async fn certify(
    link: &mut Link,
    hello: &HelloAck,
    nameplate: Nameplate,
) -> Result<Certificate, CertifyError> {
    // Order matters: randomness first, so that nothing that follows can draw from a shared pool.
    let entropy_bytes = reseed(link).await?;
    let identity = identify(link, nameplate).await?;
    let (clock, clock_samples) = set_clock(link).await?;
    Ok(Certificate {
        agent_version: guest_words(&hello.agent_version),
        guest_kernel: guest_words(&hello.kernel),
        clock,
        clock_samples,
        entropy_bytes,
        host_name: identity.host_name,
        machine_id: identity.machine_id,
    })
}

/// Refuses a freshly booted guest whose clock runs far too fast or too slow. On a busy host a kernel can get the
/// rate of its clock wrong while it boots: then every timeout in the guest is wrong, and so would be those of all
/// clones. The bounds are wide: firmware runs before the guest's clock does, and its clock starts late.
pub(crate) fn check_clock_rate(guest_ms: u64, since_start: Duration) -> Result<(), CertifyError> {
    let host_ms = u64::try_from(since_start.as_millis()).unwrap_or(u64::MAX);
    let too_fast = guest_ms > host_ms.saturating_add(host_ms / 4).saturating_add(500);
    let too_slow = host_ms > 2000 && guest_ms < host_ms / 10;
    if too_fast || too_slow { Err(CertifyError::ClockRate { guest_ms, host_ms }) } else { Ok(()) }
}

async fn reseed(link: &mut Link) -> Result<u32, CertifyError> {
    let mut entropy = [0; ENTROPY];
    getrandom(&mut entropy, GetRandomFlags::empty()).map_err(CertifyError::Entropy)?;
    match link.request("reseed", HostMessage::Reseed(Reseed { entropy: entropy.to_vec() })).await? {
        GuestMessage::Reseeded(_) => Ok(u32::try_from(ENTROPY).unwrap_or(u32::MAX)),
        _ => Err(LinkError::Unexpected { request: "reseed" }.into()),
    }
}

async fn identify(link: &mut Link, nameplate: Nameplate) -> Result<Identity, CertifyError> {
    let Nameplate { host_name, machine_id } = nameplate;
    let wanted = SetIdentity { host_name: host_name.clone(), machine_id: machine_id.clone() };
    let GuestMessage::Identity(found) =
        link.request("set identity", HostMessage::SetIdentity(wanted)).await?
    else {
        return Err(LinkError::Unexpected { request: "set identity" }.into());
    };
    let mismatch = |what, wanted: String, found: &str| {
        let found = guest_words(found);
        Err(CertifyError::Identity { what, wanted, found })
    };
    if found.host_name != host_name {
        return mismatch("host name", host_name, &found.host_name);
    }
    if found.machine_id != machine_id {
        return mismatch("machine id", machine_id, &found.machine_id);
    }
    Ok(found)
}

/// Sets the clock and measures it until the whole interval lies within the tolerance.
async fn set_clock(link: &mut Link) -> Result<(ClockInterval, u32), CertifyError> {
    let mut samples = 0;
    loop {
        sample(link, clock::unix_ns()).await?;
        let interval = sample(link, 0).await?;
        samples += 1;
        if interval.is_within(timeout::CLOCK_TOLERANCE) {
            return Ok((interval, samples));
        }
    }
}

/// One round trip; `set_unix_ns` 0 only reads.
async fn sample(link: &mut Link, set_unix_ns: u64) -> Result<ClockInterval, LinkError> {
    let before = clock::unix_ns();
    let answer = link.request("clock", HostMessage::Clock(Clock { set_unix_ns })).await?;
    let after = clock::unix_ns();
    match answer {
        GuestMessage::ClockRead(read) => Ok(ClockInterval::measured(before, read.unix_ns, after)),
        _ => Err(LinkError::Unexpected { request: "clock" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_at_another_rate_is_refused() {
        let after = |ms| Duration::from_millis(ms);
        assert!(check_clock_rate(1400, after(1800)).is_ok());
        assert!(check_clock_rate(1800, after(1800)).is_ok());
        assert!(check_clock_rate(1000, after(6000)).is_ok(), "a slow start is no slow clock");
        assert!(check_clock_rate(65_000, after(1800)).is_err());
        assert!(check_clock_rate(100, after(6000)).is_err());
    }
}

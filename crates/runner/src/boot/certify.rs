//! Certify: randomness, identity and clock are what this incarnation's must be. Fails closed; nothing to undo.

use super::{Core, Stumble};
use crate::certify::{self, CertifyError, Nameplate};
use crate::program;
use outlast_machine::backend::Backend;
use outlast_wire::intent::Start;

pub(super) async fn make<B: Backend>(core: &mut Core<B>) -> Result<(), Stumble> {
    let (Some(link), Some(hello)) = (core.link.as_mut(), core.hello.as_ref()) else {
        return Err(Stumble::Failed("no agent has answered".to_owned()));
    };
    if let (Start::Boot, Some(started)) = (&core.intent.start, core.guest_started) {
        certify::check_clock_rate(hello.uptime_ms, started.elapsed()).map_err(Stumble::failed)?;
    }
    let nameplate = Nameplate::of(&core.intent.purpose, core.id);
    let certificate = certify::certify(link, hello, nameplate).await.map_err(stumble)?;
    core.certificate = Some(certificate);
    core.timings.ready = Some(program::since_request(&core.intent));
    Ok(())
}

/// A link that broke is told apart, for its VMM may know why.
fn stumble(error: CertifyError) -> Stumble {
    match error {
        CertifyError::Link(error) => Stumble::on_link(error),
        error => Stumble::failed(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::LinkError;

    #[test]
    fn a_link_that_broke_while_certifying_is_told_apart() {
        let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        for broken in [LinkError::Closed, LinkError::Io(broken)] {
            assert!(matches!(stumble(CertifyError::Link(broken)), Stumble::LinkBroke(_)));
        }
        let other = LinkError::Unexpected { request: "clock" };
        assert!(matches!(stumble(CertifyError::Link(other)), Stumble::Failed(_)));
    }
}

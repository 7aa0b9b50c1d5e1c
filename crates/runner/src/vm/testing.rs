//! The part of the loop that looks after programs, alone: for tests, which have no VMM.

use super::{Ask, Asks, Execs, attach};
use crate::link::Link;
use outlast_wire::paths::Evidence;
use std::rc::Rc;

/// Serves asks about programs over a link until that ends.
pub(crate) async fn serve(mut link: Link, execs: Rc<Execs>, mut asks: Asks, evidence: Evidence) {
    attach(&mut link, &execs);
    loop {
        tokio::select! {
            biased;
            ask = asks.next() => match ask {
                Ask::Program(ask) => ask.carry_out(&execs, &mut link, &evidence),
                other => panic!("{other:?}"),
            },
            doomed = execs.doomed() => Execs::execute(&mut link, &doomed).unwrap(),
            heard = link.next() => if heard.is_err() { break },
        }
    }
    execs.lose("the VM ended");
}

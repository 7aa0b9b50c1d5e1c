//! A conversation that is handed over to another host, as that of a restored guest is: real programs of this host.

use super::tests::{alive, gone, hello, shell, with_host};
use outlast_wire::guest::{Freeze, GuestMessage, HostMessage, Thaw};

/// What a snapshot's guest hears when it goes on with another host. (That programs stand still is the kernel's doing.)
#[test]
fn programs_that_nobody_waits_for_are_handed_over_to_the_host_of_a_restored_guest() {
    with_host(|mut host| async move {
        host.hello(1).await;
        let signs = tempfile::tempdir().unwrap();
        let go = signs.path().join("go");
        let waits = format!("while [ ! -e {} ]; do sleep 0.01; done; echo on", go.display());
        let mut pids = Vec::new();
        for (stream, script) in [(1, "exec sleep 1000"), (2, waits.as_str())] {
            host.send(stream, HostMessage::Exec(shell(script))).await;
            let (_, GuestMessage::Started(started)) = host.next().await else { panic!("not started") };
            pids.push(started.pid);
        }
        host.send(9, HostMessage::Freeze(Freeze { keep: vec![7, 2], numbers: vec![1, 4] })).await;
        while !matches!(host.next().await, (9, GuestMessage::Done(_))) {}
        host.send(0, hello(2)).await;
        let ack = loop {
            if let GuestMessage::HelloAck(ack) = host.next().await.1 {
                break ack;
            }
        };
        assert_eq!((ack.kept, ack.numbers, ack.last_stream), (vec![2], vec![4], 9));
        gone(pids[0]).await;
        assert!(alive(pids[1]));
        std::fs::write(go, "").unwrap();
        host.send(10, HostMessage::Thaw(Thaw {})).await;
        let (mut out, mut thawed) = (Vec::new(), false);
        loop {
            match host.next().await {
                (2, GuestMessage::Output(output)) => out.extend(output.data),
                (2, GuestMessage::Exited(exited)) => break assert_eq!(exited.code, Some(0)),
                (10, GuestMessage::Done(_)) => thawed = true,
                // The end of the one that was killed is of no interest to anybody.
                (1, _) => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(out == b"on\n" && thawed);
        // The next host is an ordinary one: what runs is ended.
        host.send(11, HostMessage::Exec(shell("exec sleep 1000"))).await;
        let (_, GuestMessage::Started(started)) = host.next().await else { panic!("not started") };
        host.hello(3).await;
        gone(started.pid).await;
    });
}

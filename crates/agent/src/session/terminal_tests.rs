//! Programs on terminals, over a session: real terminals of this host, real programs.

use super::tests::{Host, gone, shell, with_host};
use outlast_wire::guest::{Credit, Done, Exec, GuestMessage, HostMessage, Resize, Signal, StdinData};

/// A program on a terminal of 24 rows and 80 columns, on which something can be typed.
fn on_terminal(script: &str) -> Exec {
    Exec { pty: true, rows: 24, columns: 80, stdin: true, ..shell(script) }
}

fn typed(text: &str, last: bool) -> HostMessage {
    HostMessage::StdinData(StdinData { data: text.as_bytes().to_vec(), last })
}

/// Everything shown on stream 1 until it contains `wanted`.
async fn shown_until(host: &mut Host, wanted: &str) -> String {
    let mut shown = String::new();
    while !shown.contains(wanted) {
        match host.next().await {
            (1, GuestMessage::Output(chunk)) => {
                assert_eq!(chunk.descriptor, 1, "a terminal has one side to look at");
                shown.push_str(&String::from_utf8(chunk.data).unwrap());
            }
            (_, GuestMessage::Started(_) | GuestMessage::Credit(_) | GuestMessage::Done(_)) => {}
            other => panic!("{other:?} after {shown:?}"),
        }
    }
    shown
}

#[test]
fn a_program_has_a_terminal_of_its_own_with_the_size_that_was_asked_for() {
    with_host(|mut host| async move {
        host.hello(1).await;
        let script =
            "test -t 0 && test -t 1 && test -t 2 && stty size && echo err >&2 && : </dev/tty && exit 7";
        host.send(1, HostMessage::Exec(on_terminal(script))).await;
        let (out, err, end) = host.follow(1).await;
        assert_eq!(String::from_utf8(out).unwrap(), "24 80\r\nerr\r\n");
        assert_eq!((err.len(), end.code), (0, Some(7)));
    });
}

#[test]
fn what_is_typed_is_read_and_shown_and_the_end_of_input_is_one() {
    with_host(|mut host| async move {
        host.hello(1).await;
        host.send(1, HostMessage::Exec(on_terminal("cat; echo over"))).await;
        while !matches!(host.next().await, (1, GuestMessage::Credit(Credit { .. }))) {}
        host.send(1, typed("hello\n", false)).await;
        // Once as the echo and once from the program.
        shown_until(&mut host, "hello\r\nhello\r\n").await;
        host.send(1, typed("", true)).await;
        let (out, _, end) = host.follow(1).await;
        assert!(String::from_utf8(out).unwrap().ends_with("over\r\n"));
        assert_eq!(end.code, Some(0));
    });
}

#[test]
fn an_interrupt_that_is_typed_is_one() {
    with_host(|mut host| async move {
        host.hello(1).await;
        let script = "trap 'echo heard; exit 5' INT; echo ready; while :; do sleep 0.01; done";
        host.send(1, HostMessage::Exec(on_terminal(script))).await;
        shown_until(&mut host, "ready").await;
        host.send(1, typed("\x03", false)).await;
        let (out, _, end) = host.follow(1).await;
        assert!(String::from_utf8(out).unwrap().contains("heard"));
        assert_eq!(end.code, Some(5));
    });
}

#[test]
fn a_program_hears_that_its_terminal_has_another_size() {
    with_host(|mut host| async move {
        host.hello(1).await;
        let script = "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.01; done";
        host.send(1, HostMessage::Exec(on_terminal(script))).await;
        shown_until(&mut host, "ready\r\n").await;
        host.send(1, HostMessage::Resize(Resize { rows: 50, columns: 132 })).await;
        let (out, _, end) = host.follow(1).await;
        assert_eq!((String::from_utf8(out).unwrap().as_str(), end.code), ("50 132\r\n", Some(0)));
    });
}

#[test]
fn what_has_no_terminal_or_no_such_size_is_not_resized() {
    with_host(|mut host| async move {
        host.hello(1).await;
        host.send(1, HostMessage::Exec(shell("exec sleep 1000"))).await;
        host.send(2, HostMessage::Exec(on_terminal("exec sleep 1000"))).await;
        let good = Resize { rows: 1, columns: 1 };
        let broad = Resize { rows: 1, columns: 1 << 16 };
        let mut begun = 0;
        while begun < 2 {
            begun += usize::from(matches!(host.next().await.1, GuestMessage::Started(_)));
        }
        for (stream, size, errno) in
            [(1, good, libc::ENOTTY), (2, broad, libc::EINVAL), (3, good, libc::ESRCH), (2, good, 0)]
        {
            host.send(stream, HostMessage::Resize(size)).await;
            let answer = loop {
                match host.next().await {
                    (_, GuestMessage::Credit(_)) => {}
                    answer => break answer,
                }
            };
            match answer {
                (of, GuestMessage::Refused(refused)) => assert_eq!((of, refused.errno), (stream, errno)),
                (of, GuestMessage::Done(Done {})) => assert_eq!((of, 0), (stream, errno)),
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn a_flood_on_a_terminal_arrives_whole() {
    with_host(|mut host| async move {
        host.hello(1).await;
        let script = "stty -opost; head -c 1000000 /dev/zero | tr '\\0' x; echo end";
        host.send(1, HostMessage::Exec(on_terminal(script))).await;
        let (out, _, end) = host.follow(1).await;
        assert_eq!((out.len(), end.code), (1_000_004, Some(0)));
        assert!(out.ends_with(b"xxend\n"));
    });
}

#[test]
fn what_is_left_on_a_terminal_hears_the_hang_up_or_is_killed() {
    with_host(|mut host| async move {
        host.hello(1).await;
        // In the foreground of its session, where a hang-up goes.
        let script = "sh -c \"trap 'echo hung up; exit' HUP; echo pid \\$\\$; while :; do sleep 0.01; done\" & \
                      read line; exit 0";
        host.send(1, HostMessage::Exec(on_terminal(script))).await;
        let shown = shown_until(&mut host, "\n").await;
        let pid = shown.trim().strip_prefix("pid ").unwrap().parse().unwrap();
        host.send(1, typed("\n", false)).await;
        let (_, _, end) = host.follow(1).await;
        assert_eq!(end.code, Some(0));
        gone(pid).await;
    });
}

#[test]
fn a_signal_reaches_a_program_on_a_terminal() {
    with_host(|mut host| async move {
        host.hello(1).await;
        host.send(1, HostMessage::Exec(on_terminal("echo ready; exec sleep 1000"))).await;
        shown_until(&mut host, "ready").await;
        host.send(1, HostMessage::Signal(Signal { number: 9 })).await;
        let (_, _, end) = host.follow(1).await;
        assert_eq!(end.signal, Some(9));
    });
}

#[test]
fn typing_without_credit_ends_the_conversation() {
    with_host(|mut host| async move {
        host.hello(1).await;
        host.send(1, HostMessage::Exec(Exec { stdin: false, ..on_terminal("exec sleep 1000") })).await;
        let (_, GuestMessage::Started(started)) = host.next().await else { panic!("not started") };
        host.send(1, typed("x", false)).await;
        let (stream, answer) = host.next().await;
        assert!(matches!((stream, &answer), (0, GuestMessage::Refused(_))), "{answer:?}");
        gone(started.pid).await;
    });
}

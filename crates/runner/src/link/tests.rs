//! The link against a guest that is a socket of the test.

use super::*;
use outlast_wire::guest::{Ping, Pong};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn guest_frame(stream: u32, message: GuestMessage) -> Vec<u8> {
    guest::encode(&GuestFrame { stream, message: Some(message) }).unwrap()
}

async fn host_frame(stream: &mut UnixStream) -> HostFrame {
    let length = stream.read_u32().await.unwrap();
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).await.unwrap();
    guest::decode(&body).unwrap()
}

#[tokio::test]
async fn leftovers_before_the_hello_are_dropped() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut link = Link::new(ours);
    let agent = async {
        let Some(HostMessage::Hello(hello)) = host_frame(&mut theirs).await.message else { panic!() };
        let stale = HelloAck { nonce: vec![0; 16], protocol: PROTOCOL, ..HelloAck::default() };
        theirs.write_all(&guest_frame(9, GuestMessage::Pong(Pong {}))).await.unwrap();
        theirs.write_all(&guest_frame(0, GuestMessage::HelloAck(stale))).await.unwrap();
        let fresh = HelloAck { nonce: hello.nonce, protocol: PROTOCOL, ..HelloAck::default() };
        theirs.write_all(&guest_frame(0, GuestMessage::HelloAck(fresh))).await.unwrap();
    };
    let (ack, ()) = tokio::join!(link.hello(), agent);
    assert_ne!(ack.unwrap().nonce, vec![0; 16]);
}

#[tokio::test]
async fn what_a_restored_guest_still_says_to_its_former_host_is_passed_over() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut link = Link::new(ours);
    let agent = async {
        let Some(HostMessage::Hello(hello)) = host_frame(&mut theirs).await.message else { panic!() };
        theirs.write_all(&[0xff; 5000]).await.unwrap();
        let ack = HelloAck { nonce: hello.nonce, protocol: PROTOCOL, ..HelloAck::default() };
        let answer = guest_frame(0, GuestMessage::HelloAck(ack));
        let ping = guest_frame(1, GuestMessage::Pong(Pong {}));
        theirs.write_all(&[answer, ping].concat()).await.unwrap();
    };
    let (ack, ()) = tokio::join!(link.hello_amid_ruins(), agent);
    ack.unwrap();
    link.open_stream();
    assert!(matches!(link.next().await, Ok((1, GuestMessage::Pong(_)))), "what follows is not lost");
    drop(theirs);
    assert!(matches!(link.next().await, Err(LinkError::Closed)));
}

#[tokio::test]
async fn an_agent_of_another_generation_is_refused() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut link = Link::new(ours);
    let agent = async {
        let Some(HostMessage::Hello(hello)) = host_frame(&mut theirs).await.message else { panic!() };
        let ack = HelloAck { nonce: hello.nonce, protocol: 99, ..HelloAck::default() };
        theirs.write_all(&guest_frame(0, GuestMessage::HelloAck(ack))).await.unwrap();
    };
    let (ack, ()) = tokio::join!(link.hello(), agent);
    assert!(matches!(ack, Err(LinkError::Generation { theirs: 99 })));
}

#[tokio::test]
async fn a_silent_agent_meets_the_deadline() {
    tokio::time::pause();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let answer = Link::new(ours).request("ping", HostMessage::Ping(Ping {})).await;
    assert!(matches!(answer, Err(LinkError::TimedOut { request: "ping", .. })));
}

/// A link whose hello was answered, and its other end.
async fn greeted() -> (Link, UnixStream) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut link = Link::new(ours);
    let agent = async {
        let Some(HostMessage::Hello(hello)) = host_frame(&mut theirs).await.message else { panic!() };
        let ack = HelloAck { nonce: hello.nonce, protocol: PROTOCOL, ..HelloAck::default() };
        theirs.write_all(&guest_frame(0, GuestMessage::HelloAck(ack))).await.unwrap();
    };
    let (ack, ()) = tokio::join!(link.hello(), agent);
    ack.unwrap();
    (link, theirs)
}

#[tokio::test]
async fn an_answer_before_its_question_is_refused() {
    let (mut link, mut theirs) = greeted().await;
    theirs.write_all(&guest_frame(1, GuestMessage::Pong(Pong {}))).await.unwrap();
    assert!(matches!(link.next().await, Err(LinkError::Unopened(1))));
}

#[tokio::test]
async fn answers_to_what_was_given_up_are_dropped() {
    let (mut link, mut theirs) = greeted().await;
    let given_up = link.open_stream();
    let agent = async {
        host_frame(&mut theirs).await;
        for stream in [given_up, 0, given_up, 2] {
            theirs.write_all(&guest_frame(stream, GuestMessage::Pong(Pong {}))).await.unwrap();
        }
    };
    let (answer, ()) = tokio::join!(link.request("ping", HostMessage::Ping(Ping {})), agent);
    assert!(matches!(answer, Ok(GuestMessage::Pong(_))));
}

#[tokio::test]
async fn a_guest_that_never_stops_talking_does_not_hold_up_a_deadline() {
    let (mut link, theirs) = greeted().await;
    link.open_stream();
    let mut flood = Vec::new();
    while flood.len() < 1 << 20 {
        flood.extend(guest_frame(1, GuestMessage::Pong(Pong {})));
    }
    let writer = std::thread::spawn({
        let theirs = theirs.into_std().unwrap();
        move || {
            use std::io::Write;
            theirs.set_nonblocking(false).unwrap();
            while (&theirs).write_all(&flood).is_ok() {}
        }
    });
    let began = std::time::Instant::now();
    let limit = Duration::from_millis(200);
    let waited = async { while link.next().await.is_ok() {} };
    assert!(tokio::time::timeout(limit, waited).await.is_err(), "nothing but the deadline ends it");
    assert!(began.elapsed() < 50 * limit, "{:?}", began.elapsed());
    drop(link);
    writer.join().unwrap();
}

/// Queues as much as there is room for.
fn fill(link: &mut Link, stream: u32) {
    while link.backlog() < BACKLOG {
        let data = outlast_wire::guest::StdinData { data: vec![7; MAX_CHUNK], last: false };
        link.queue(stream, HostMessage::StdinData(data)).unwrap();
    }
}

/// A guest that takes everything and says nothing.
async fn read_for_ever(theirs: &mut UnixStream) {
    let mut sink = vec![0; MAX_CHUNK];
    loop {
        theirs.read_exact(&mut sink[..]).await.unwrap();
    }
}

#[tokio::test]
async fn whoever_has_more_to_send_is_told_of_room_although_the_guest_says_nothing() {
    let (mut link, mut theirs) = greeted().await;
    let stream = link.open_stream();
    let feed = async {
        for _ in 0..20 {
            fill(&mut link, stream);
            assert!(link.answer_or_room("anything", stream).await.unwrap().is_none());
            assert!(link.backlog() < BACKLOG);
        }
    };
    tokio::select! {
        () = feed => {}
        () = read_for_ever(&mut theirs) => {}
    }
}

#[tokio::test]
async fn what_has_left_takes_no_memory_although_the_queue_is_never_empty() {
    let (mut link, mut theirs) = greeted().await;
    let stream = link.open_stream();
    let feed = async {
        for _ in 0..200 {
            fill(&mut link, stream);
            link.exchange().await.unwrap();
        }
        assert!(link.outbound.capacity() < 4 * BACKLOG, "{}", link.outbound.capacity());
    };
    tokio::select! {
        () = feed => {}
        () = read_for_ever(&mut theirs) => {}
    }
}

#[tokio::test]
async fn a_probe_is_answered_while_something_else_is_awaited() {
    let (link, mut theirs) = greeted().await;
    let probes = Rc::new(Probes::default());
    let mut link = link.probed(Rc::clone(&probes));
    let asked = probes.ask();
    let agent = async {
        let ping = host_frame(&mut theirs).await;
        assert!(matches!(ping.message, Some(HostMessage::Ping(_))));
        theirs.write_all(&guest_frame(ping.stream, GuestMessage::Pong(Pong {}))).await.unwrap();
        asked.await.unwrap()
    };
    tokio::select! {
        heard = link.next() => panic!("{heard:?}"),
        _took = agent => {}
    }
}

#[tokio::test]
async fn rubbish_and_a_hang_up_end_the_link() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut link = Link::new(ours);
    theirs.write_all(&[0xff; 64]).await.unwrap();
    assert!(matches!(link.next().await, Err(LinkError::Frame(FrameError::TooLong { .. }))));
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    assert!(matches!(Link::new(ours).next().await, Err(LinkError::Closed)));
}

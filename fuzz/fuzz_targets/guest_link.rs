//! The runner's end of the guest link, over a real socket: hello, requests and plain reading, against a peer that
//! sends anything in any pieces and hangs up. What the link must make of it is said here a second time, shorter.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outlast_fuzz::{From, Heard, hear, pieces};
use outlast_runner::link::{Link, LinkError};
use outlast_wire::guest::{
    GuestFrame, GuestMessage, HelloAck, HostFrame, HostMessage, PROTOCOL, Ping, decode, encode,
};
use std::future::Future;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
}

/// Streams that the host has opened when it only listens.
const OPENED: u32 = 3;

fuzz_target!(|bytes: &[u8]| {
    let heard = hear::<GuestFrame>(From::Guest, std::iter::once(bytes));
    reading_gives_what_the_decoder_gives(bytes, &heard);
    a_request_gets_the_first_answer_on_its_stream(bytes, &heard);
    // The nonce is random: bytes that were chosen before it was drawn cannot repeat it.
    assert!(talk(bytes, false, async |link| link.hello().await).is_err(), "a hello was answered by nobody");
});

/// Runs one side while the other sends all bytes and hangs up; `greets` says whether it answers a hello before.
fn talk<T>(bytes: &[u8], greets: bool, side: impl AsyncFnOnce(&mut Link) -> T) -> T {
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
            let mut link = Link::new(ours);
            let guest = async {
                if greets {
                    greet(&mut theirs).await;
                }
                for piece in pieces(bytes) {
                    // The other side may have hung up by now.
                    if theirs.write_all(piece).await.is_err() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                // What the host says is not read; a socket that is closed with unread bytes resets the other end.
                let _ = theirs.shutdown().await;
                theirs
            };
            let host = async {
                if greets {
                    link.hello().await.expect("it was answered");
                }
                side(&mut link).await
            };
            both(host, guest).await
        })
    })
}

/// Answers the host's hello as an agent does.
async fn greet(stream: &mut UnixStream) {
    let length = stream.read_u32().await.expect("the host speaks first");
    let mut body = vec![0; usize::try_from(length).expect("short")];
    stream.read_exact(&mut body).await.expect("a whole frame");
    let frame = decode::<HostFrame>(&body).expect("the host speaks the protocol");
    let Some(HostMessage::Hello(hello)) = frame.message else { panic!("not a hello") };
    let ack = HelloAck { nonce: hello.nonce, protocol: PROTOCOL, ..HelloAck::default() };
    let answer = GuestFrame { stream: 0, message: Some(GuestMessage::HelloAck(ack)) };
    stream.write_all(&encode(&answer).expect("short")).await.expect("the host listens");
}

/// Both at once; the second is given up when the first is done.
async fn both<A, B>(first: impl Future<Output = A>, second: impl Future<Output = B>) -> A {
    let (mut first, mut second) = (std::pin::pin!(first), std::pin::pin!(second));
    let mut kept = None;
    std::future::poll_fn(|context| {
        if kept.is_none() {
            if let std::task::Poll::Ready(value) = second.as_mut().poll(context) {
                kept = Some(value);
            }
        }
        first.as_mut().poll(context)
    })
    .await
}

/// How a link ends, without its details.
#[derive(Debug, PartialEq)]
enum End {
    HungUp,
    NoFrame,
    Unknown,
    Unopened(u32),
    GivenUp,
}

/// What a link gives to whoever listens, with so many streams open, and how it ends.
fn expected(heard: &Heard<GuestFrame>, opened: u32) -> (Vec<(u32, GuestMessage)>, End) {
    let mut messages = Vec::new();
    for frame in &heard.messages {
        match &frame.message {
            None => return (messages, End::Unknown),
            Some(_) if frame.stream > opened => return (messages, End::Unopened(frame.stream)),
            Some(GuestMessage::Refused(_)) if frame.stream == 0 => return (messages, End::GivenUp),
            Some(message) => messages.push((frame.stream, message.clone())),
        }
    }
    (messages, if heard.error.is_some() { End::NoFrame } else { End::HungUp })
}

fn end_of(error: &LinkError) -> End {
    match error {
        LinkError::Closed => End::HungUp,
        LinkError::Frame(_) => End::NoFrame,
        LinkError::UnknownMessage => End::Unknown,
        LinkError::Unopened(stream) => End::Unopened(*stream),
        LinkError::GivenUp(words) => {
            fit(words);
            End::GivenUp
        }
        other => panic!("the link ended in a way of its own: {other:?}"),
    }
}

fn reading_gives_what_the_decoder_gives(bytes: &[u8], heard: &Heard<GuestFrame>) {
    let read = talk(bytes, true, async |link| {
        for _ in 0..OPENED {
            link.open_stream();
        }
        let mut messages = Vec::new();
        loop {
            match link.next().await {
                Ok(message) => messages.push(message),
                Err(error) => return (messages, end_of(&error)),
            }
        }
    });
    assert_eq!(read, expected(heard, OPENED));
}

fn a_request_gets_the_first_answer_on_its_stream(bytes: &[u8], heard: &Heard<GuestFrame>) {
    let answer = talk(bytes, true, async |link| link.request("ping", HostMessage::Ping(Ping {})).await);
    // The first stream of a link is 1; what comes on stream 0 is passed over.
    let (messages, end) = expected(heard, 1);
    let expected = messages.into_iter().find(|(stream, _)| *stream == 1).map(|(_, message)| message);
    match (answer, expected) {
        (Err(LinkError::Refused(refused)), Some(GuestMessage::Refused(_))) => {
            fit(&refused.operation);
            fit(&refused.cause);
        }
        (Ok(answer), Some(expected)) => assert_eq!(answer, expected),
        (Err(error), None) => assert_eq!(end_of(&error), end),
        (answer, expected) => panic!("{answer:?} instead of {expected:?}"),
    }
}

fn fit(words: &str) {
    assert!(words.chars().count() <= 300 && !words.chars().any(char::is_control));
}

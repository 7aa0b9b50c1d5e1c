//! Real sockets; the process behind them is this one.

use super::*;
use std::io::Read;
use std::os::unix::net::UnixListener;

fn link() -> (Link, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (Link { stream: ours, incoming: Incoming::default(), generation: GENERATION }, theirs)
}

fn ask(link: &mut Link) -> Result<Answer, LinkError> {
    link.ask(&Request::Ping, Duration::from_millis(200))
}

#[test]
fn an_answer_that_comes_in_pieces_is_read_and_a_refusal_is_an_error() {
    let (mut link, mut theirs) = link();
    let (accepted, refused) =
        (frame(&Answer::Accepted).unwrap(), frame(&Answer::Refused { cause: "no".to_owned() }).unwrap());
    theirs.write_all(&accepted[..3]).unwrap();
    assert!(matches!(ask(&mut link), Err(LinkError::Silent { .. })), "half an answer is none");
    theirs.write_all(&[&accepted[3..], &refused].concat()).unwrap();
    assert_eq!(ask(&mut link).unwrap(), Answer::Accepted);
    assert!(matches!(ask(&mut link), Err(LinkError::Refused { .. })));
    let mut asked = [0; HEADER_AND_PING];
    theirs.read_exact(&mut asked).unwrap();
    assert!(asked.ends_with(br#"{"request":"ping"}"#));
}

const HEADER_AND_PING: usize = 4 + br#"{"request":"ping"}"#.len();

#[test]
fn rubbish_is_refused_and_a_hang_up_is_seen() {
    let (mut link, mut theirs) = self::link();
    theirs.write_all(&u32::MAX.to_be_bytes()).unwrap();
    assert!(matches!(ask(&mut link), Err(LinkError::TooLong(_))));
    let (mut link, mut theirs) = self::link();
    theirs.write_all(&[0, 0, 0, 1, b'{']).unwrap();
    assert!(matches!(ask(&mut link), Err(LinkError::Malformed(_))));
    let (mut link, theirs) = self::link();
    drop(theirs);
    assert!(matches!(ask(&mut link), Err(LinkError::HungUp | LinkError::Io(_))));
}

#[test]
fn what_came_before_a_hang_up_is_heard() {
    let (mut link, mut theirs) = link();
    assert!(link.heard().unwrap().is_empty());
    let both = [frame(&Answer::Accepted).unwrap(), frame(&Answer::Accepted).unwrap()].concat();
    theirs.write_all(&both).unwrap();
    drop(theirs);
    assert_eq!(link.heard().unwrap().len(), 2);
    assert!(matches!(link.heard(), Err(LinkError::HungUp)));
}

#[test]
fn what_came_together_with_an_answer_is_not_forgotten() {
    let (mut link, mut theirs) = link();
    let both = [frame(&Answer::Accepted).unwrap(), frame(&Answer::Probed { round_trip_us: 1 }).unwrap()];
    theirs.write_all(&both.concat()).unwrap();
    assert_eq!(ask(&mut link).unwrap(), Answer::Accepted);
    assert_eq!(link.heard_before().unwrap(), [Answer::Probed { round_trip_us: 1 }]);
    assert!(link.heard_before().unwrap().is_empty());
}

#[test]
fn a_reader_that_does_not_read_is_not_waited_for_longer_than_told() {
    let (mut link, _theirs) = link();
    let large = Request::Monitor { command: "x".repeat(900 * 1024) };
    assert!(matches!(link.ask(&large, Duration::from_millis(100)), Err(LinkError::Silent { .. })));
    assert!(matches!(frame(&"x".repeat(2 << 20)), Err(LinkError::TooLong(_))));
}

#[test]
fn an_older_runner_is_told_by_its_generation() {
    let (link, _theirs) = link();
    assert!(link.of_generation(GENERATION).is_ok());
    let (link, _theirs) = self::link();
    assert!(matches!(link.of_generation(GENERATION + 1), Err(LinkError::TooOld { .. })));
}

#[test]
fn a_silent_listener_with_a_full_queue_is_not_waited_for() {
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("sock");
    assert!(matches!(connect_to(&path), Err(LinkError::Connect { .. })));
    let _listener = UnixListener::bind(&path).unwrap();
    // Nobody accepts: sooner or later the queue is full, and that is an error at once.
    let full = (0..100_000).map(|_| connect_to(&path)).take_while(Result::is_ok).count();
    assert!(full < 100_000);
}

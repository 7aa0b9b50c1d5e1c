//! What arrives at the agent: frames, and a hello behind the ruins of an earlier connection.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outlast_fuzz::{From, frames, hear};
use outlast_wire::guest::{Hello, HostFrame, HostMessage, LONGEST_HELLO, PROTOCOL, encode, hello_at_end};

fuzz_target!(|bytes: &[u8]| {
    frames::<HostFrame>(From::Host, bytes);
    if let Some(hello) = hello_at_end(bytes) {
        assert!(hello.len() <= LONGEST_HELLO && bytes.ends_with(hello));
        let heard = hear::<HostFrame>(From::Host, std::iter::once(hello));
        assert_eq!((heard.messages.len(), &heard.error, heard.pending), (1, &None, 0));
        assert!(matches!(heard.messages[0].message, Some(HostMessage::Hello(_))));
    }
    // The agent keeps no more of the bytes than a hello can have.
    let tail = &bytes[bytes.len().saturating_sub(LONGEST_HELLO)..];
    assert_eq!(hello_at_end(tail), hello_at_end(bytes));
    // Whatever stands before a host's hello, it is found, and it is that one.
    let hello = Hello { nonce: vec![0xa5; 16], protocol: PROTOCOL };
    let hello = encode(&HostFrame { stream: 0, message: Some(HostMessage::Hello(hello)) });
    let hello = hello.expect("a hello is short");
    let behind = [bytes, &hello].concat();
    assert_eq!(hello_at_end(&behind), Some(hello.as_slice()));
});

//! What the hosts file (hosts(5)) should say: the line for the machine's own name, and every other line as it is,
//! whatever bytes it is made of. Not here: reading and writing it.

/// The address that Debian gives a machine's own name in /etc/hosts.
const OWN_ADDRESS: &[u8] = b"127.0.1.1";

/// What a hosts file says that somebody emptied, or that never was.
const USUAL: &[u8] = b"127.0.0.1\tlocalhost\n::1\tlocalhost\n";

/// The file with the machine's name in it; `None` when it is there already, and the file can stay as it is.
pub(super) fn named(hosts: &[u8], host_name: &str) -> Option<Vec<u8>> {
    let mut own = lines(hosts).filter(|line| is_own(line));
    if let (Some(line), None) = (own.next(), own.next()) {
        // Whoever gave the machine more names behind its own keeps them.
        if words(line).nth(1) == Some(host_name.as_bytes()) {
            return None;
        }
    }
    let mut text: Vec<u8> = Vec::with_capacity(hosts.len() + 128);
    for line in lines(hosts).filter(|line| !is_own(line)) {
        text.extend_from_slice(line);
        if !line.ends_with(b"\n") {
            text.push(b'\n');
        }
    }
    if text.is_empty() {
        text.extend_from_slice(USUAL);
    }
    for piece in [OWN_ADDRESS, b"\t", host_name.as_bytes(), b"\n"] {
        text.extend_from_slice(piece);
    }
    Some(text)
}

fn lines(hosts: &[u8]) -> impl Iterator<Item = &[u8]> {
    hosts.split_inclusive(|&byte| byte == b'\n')
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

fn is_own(line: &[u8]) -> bool {
    words(line).next() == Some(OWN_ADDRESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_line_is_replaced_and_the_rest_kept() {
        let after = named(b"127.0.0.1 localhost\n127.0.1.1 old\n10.0.0.1 gateway", "web").unwrap();
        assert_eq!(after, b"127.0.0.1 localhost\n10.0.0.1 gateway\n127.0.1.1\tweb\n");
        assert_eq!(named(b"", "web").unwrap(), [USUAL, b"127.0.1.1\tweb\n"].concat());
        assert_eq!(named(b"127.0.1.1 a\n", "b").unwrap(), [USUAL, b"127.0.1.1\tb\n"].concat());
    }

    #[test]
    fn a_line_that_is_right_is_left_alone_wherever_it_stands() {
        for right in
            ["127.0.1.1\tweb\n", "127.0.1.1 web web.example # mine\n10.0.0.1 a", " 127.0.1.1  web\r\n"]
        {
            assert_eq!(named(right.as_bytes(), "web"), None, "{right:?}");
        }
        assert!(named(b"127.0.1.1 web\n127.0.1.1 other\n", "web").is_some(), "two names");
        assert!(named(b"127.0.1.1\n", "web").is_some(), "no name");
    }

    #[test]
    fn whatever_the_bytes_the_others_stay_and_a_second_time_changes_nothing() {
        for byte in (0..=u8::MAX).filter(|&byte| byte != b'\n') {
            let before = [b"10.0.0.1 a", [byte].as_slice(), b"b\n\n# ", &[byte], b"\n"].concat();
            let after = named(&before, "web").unwrap();
            assert_eq!(after, [before.as_slice(), b"127.0.1.1\tweb\n"].concat());
            assert_eq!(named(&after, "web"), None);
        }
    }
}

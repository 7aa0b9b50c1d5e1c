//! nftables rules, as the program `nft` lists them in the namespace of the calling thread.
//!
//! The kernel shows rules through netlink only; where nft is not installed they are not inspected, and that
//! is said.

use std::io;
use std::process::{Command, Stdio};

/// What `nft list ruleset` came to.
pub(super) enum Rules {
    /// The rules, each with the table and chain it stands in.
    Are(Vec<String>),
    /// There is no such program.
    NoProgram,
    /// It failed, and why.
    Failed(String),
}

impl Rules {
    /// Asks nft. A process started by a thread lives in that thread's network namespace.
    pub(super) fn read() -> Self {
        let listed = Command::new("nft").args(["list", "ruleset"]).stdin(Stdio::null()).output();
        match listed {
            Ok(output) if output.status.success() => {
                Self::Are(flatten(&String::from_utf8_lossy(&output.stdout)))
            }
            Ok(output) => Self::Failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::NoProgram,
            Err(error) => Self::Failed(error.to_string()),
        }
    }
}

/// Turns nested blocks into one name per line: `table inet t / chain c / tcp dport 22 accept`.
fn flatten(text: &str) -> Vec<String> {
    let mut path: Vec<&str> = Vec::new();
    let mut rules = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line == "}" {
            path.pop();
            continue;
        }
        let opens = line.strip_suffix('{').map(str::trim);
        path.push(opens.unwrap_or(line));
        rules.push(path.join(" / "));
        if opens.is_none() {
            path.pop();
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_carries_its_table_and_chain() {
        let text = "table inet t {\n\tchain c {\n\t\ttype filter hook input priority 0;\n\t\tdrop\n\t}\n}\n";
        let chain = "table inet t / chain c";
        let expected = [
            "table inet t".to_owned(),
            chain.to_owned(),
            format!("{chain} / type filter hook input priority 0;"),
            format!("{chain} / drop"),
        ];
        assert_eq!(flatten(text), expected);
    }
}

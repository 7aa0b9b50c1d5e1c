//! `outlast vm cp`: which of the two sides is the VM's, and what is shown of a copy.

use super::terminal;
use super::{DONE, Form, bad};
use crate::args::VmCpArgs;
use crate::failure::Failure;
use crate::output::progress::{Meter, warn};
use crate::output::stream::OwnStreams;
use crate::output::{human, json, note, style};
use outlast_control::vm::{Beside, Copied, Here, copy_in, copy_out};
use outlast_control::{HANG_UP, Interrupts, Site};
use outlast_wire::vm_live_view::VmCopyView;
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Spot<'a> {
    Here(&'a Path),
    Stream,
    There { name: &'a str, path: &'a str },
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
enum Way<'a> {
    /// Into the VM; `None` is standard input.
    In { name: &'a str, from: Option<&'a Path>, to: &'a str },
    /// Out of the VM; `None` is standard output.
    Out { name: &'a str, from: &'a str, to: Option<&'a Path> },
}

pub(super) fn cp(site: &Site, args: &VmCpArgs, form: Form) -> Result<u8, Failure> {
    let way = plan(args)?;
    let signals = Interrupts::block_also(&[HANG_UP]).ok();
    let meter = Meter::start();
    let beside = Beside { signals: signals.as_ref(), progress: &|bytes| meter.show(bytes) };
    let (name, direction, copied) = match way {
        Way::In { name, from, to } => (name, "in", into(site, name, from, to, &beside)),
        Way::Out { name, from, to } => (name, "out", out_of(site, name, from, to, form, &beside)),
    };
    // Order matters: nothing is told below a line that is still drawn.
    drop(meter);
    let Copied { counted, left_out } = copied?;
    match form {
        Form::Json => {
            let (files, bytes) = counted.unzip();
            let direction = direction.to_owned();
            json(&VmCopyView { name: name.to_owned(), direction, files, bytes, left_out })?;
        }
        Form::Text => {
            for line in &left_out {
                warn(&format!("left out: {line}"));
            }
            tell(counted);
        }
    }
    Ok(DONE)
}

/// Who types sees what was done; a script has asked for nothing.
fn tell(counted: Option<(u64, u64)>) {
    let Some((files, bytes)) = counted.filter(|_| style::stderr_is_terminal()) else { return };
    let noun = if files == 1 { "file" } else { "files" };
    note(&format!("copied {files} {noun}, {}", human::bytes(bytes)));
}

fn into(
    site: &Site,
    name: &str,
    from: Option<&Path>,
    to: &str,
    beside: &Beside<'_>,
) -> Result<Copied, Failure> {
    let input = io::stdin();
    let from = match from {
        Some(path) => Here::Path(path),
        None if terminal::is_one(&input) => return Err(bad("standard input is a terminal, and not a tar")),
        None => Here::Stream(input.as_fd()),
    };
    Ok(copy_in(site, name, to, from, beside)?)
}

fn out_of(
    site: &Site,
    name: &str,
    from: &str,
    to: Option<&Path>,
    form: Form,
    beside: &Beside<'_>,
) -> Result<Copied, Failure> {
    let mut streams = OwnStreams::default();
    let to = match to {
        Some(path) => Here::Path(path),
        None if form == Form::Json => return Err(bad("standard output is the copy's: leave out --json")),
        None if terminal::is_one(&io::stdout()) => {
            return Err(bad("standard output is a terminal, and a tar is no text"));
        }
        None => Here::Stream(&mut streams as &mut dyn outlast_control::Sink),
    };
    Ok(copy_out(site, name, from, to, beside)?)
}

fn plan(args: &VmCpArgs) -> Result<Way<'_>, Failure> {
    let hint = "outlast vm cp ./data web:/srv/, or outlast vm cp web:/srv/data .";
    match (spot(&args.source)?, spot(&args.destination)?) {
        (Spot::Here(from), Spot::There { name, path }) => Ok(Way::In { name, from: Some(from), to: path }),
        (Spot::Stream, Spot::There { name, path }) => Ok(Way::In { name, from: None, to: path }),
        (Spot::There { name, path }, Spot::Here(to)) => Ok(Way::Out { name, from: path, to: Some(to) }),
        (Spot::There { name, path }, Spot::Stream) => Ok(Way::Out { name, from: path, to: None }),
        (Spot::There { .. }, Spot::There { .. }) => {
            Err(bad("both are in VMs: copy to this host first, or by way of -").hint(hint))
        }
        (Spot::Here(_) | Spot::Stream, Spot::Here(_) | Spot::Stream) => {
            Err(bad("neither of the two is in a VM (NAME:/PATH)").hint(hint))
        }
    }
}

/// A word with a colon before any slash is a VM's; `./a:b` is a file here.
fn spot(word: &OsStr) -> Result<Spot<'_>, Failure> {
    if word == "-" {
        return Ok(Spot::Stream);
    }
    if word.is_empty() {
        return Err(bad("an empty path means nothing"));
    }
    let here = Ok(Spot::Here(Path::new(word)));
    let Some(text) = word.to_str() else {
        return match word.as_encoded_bytes().iter().find(|byte| matches!(byte, b':' | b'/')) {
            Some(b':') => Err(bad("a path in a VM must be UTF-8")),
            _ => here,
        };
    };
    match text.split_once(':') {
        Some((name, path)) if !name.contains('/') => {
            if !path.starts_with('/') {
                let message = format!("'{}': a path in a VM begins with /", super::shown(text));
                return Err(bad(message).hint("a file here whose name has a colon: ./NAME"));
            }
            Ok(Spot::There { name, path })
        }
        _ => here,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command, VmCommand};
    use clap::Parser;

    fn planned(line: &str) -> Result<String, String> {
        let cli = Cli::try_parse_from(format!("outlast vm cp {line}").split_whitespace()).unwrap();
        let Command::Vm(args) = cli.command else { panic!("{line}") };
        let VmCommand::Cp(args) = args.command else { panic!("{line}") };
        plan(&args).map(|way| format!("{way:?}")).map_err(|failure| failure.message().to_owned())
    }

    #[test]
    fn one_side_is_in_a_vm_and_the_other_is_not() {
        assert_eq!(
            planned("./d web:/srv/").unwrap(),
            r#"In { name: "web", from: Some("./d"), to: "/srv/" }"#
        );
        assert_eq!(planned("- web:/").unwrap(), r#"In { name: "web", from: None, to: "/" }"#);
        assert_eq!(planned("web:/a:b .").unwrap(), r#"Out { name: "web", from: "/a:b", to: Some(".") }"#);
        assert_eq!(planned("web:/etc -").unwrap(), r#"Out { name: "web", from: "/etc", to: None }"#);
        assert_eq!(planned("./a:b web:/x").unwrap(), r#"In { name: "web", from: Some("./a:b"), to: "/x" }"#);
        for (bad, why) in [
            ("a b", "neither"),
            ("- -", "neither"),
            ("web:/a db:/b", "both"),
            ("web:a .", "begins with /"),
            ("web: .", "begins with /"),
        ] {
            assert!(planned(bad).unwrap_err().contains(why), "{bad}");
        }
    }
}

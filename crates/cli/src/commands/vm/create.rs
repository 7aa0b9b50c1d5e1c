//! `outlast vm create`.

use super::{DONE, Form, bad, shown};
use crate::args::VmCreateArgs;
use crate::failure::Failure;
use crate::output::{facts, json, note};
use outlast_control::vm::spec::{Field, Said, Words, resolve};
use outlast_control::vm::{VmError, spec_file};
use outlast_control::{Error, Site};

/// Where a value came from that was typed.
const TYPED: &str = "command line";

pub(super) fn create(site: &Site, args: &VmCreateArgs, form: Form) -> Result<u8, Failure> {
    let typed = typed(args)?;
    let written = match &args.file {
        Some(path) => spec_file::read(path).map_err(|error| Error::from(VmError::from(error)))?,
        None => Words::new(),
    };
    let wanted = resolve(&[&typed, &written]).map_err(|error| Error::from(VmError::from(error)))?;
    let vm = outlast_control::vm::create(site, wanted)?;
    match form {
        Form::Json => json(&outlast_control::vm::summary(&vm))?,
        Form::Text => {
            facts(&format!("{}\n", vm.name))?;
            note(&format!("next: outlast vm start {}", vm.name));
        }
    }
    Ok(DONE)
}

/// What the command line says; options of later versions are refused by name.
fn typed(args: &VmCreateArgs) -> Result<Words, Failure> {
    let later = [
        ("--network", args.network.as_ref().filter(|network| *network != "none")),
        ("--volume", args.volume.first()),
        ("--publish", args.publish.first()),
    ];
    if let Some((option, value)) = later.into_iter().find_map(|(option, value)| Some((option, value?))) {
        return Err(bad(format!("{option} {} is not available in this version", shown(value))));
    }
    let words = [
        (Field::Name, &args.name),
        (Field::Image, &args.image),
        (Field::Vcpus, &args.vcpus),
        (Field::Memory, &args.memory),
        (Field::DiskSize, &args.disk),
        (Field::DiskFormat, &args.disk_format),
    ];
    let said = |text: &String| Said { text: text.clone(), origin: TYPED.to_owned() };
    Ok(words.into_iter().filter_map(|(field, text)| Some((field, said(text.as_ref()?)))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command, VmCommand};
    use clap::Parser;

    fn words(line: &str) -> Result<Words, Failure> {
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        let Command::Vm(args) = cli.command else { panic!("{line}") };
        let VmCommand::Create(args) = args.command else { panic!("{line}") };
        typed(&args)
    }

    #[test]
    fn what_was_typed_is_passed_on_and_nothing_else() {
        let words = words("outlast vm create web --image base --disk -2G --network none").unwrap();
        let said: Vec<_> = words.iter().map(|(field, said)| (field.name(), said.text.as_str())).collect();
        assert_eq!(said, [("name", "web"), ("image", "base"), ("disk.size", "-2G")]);
        assert!(words.values().all(|said| said.origin == TYPED));
        assert!(self::words("outlast vm create -f web.yaml").unwrap().is_empty());
    }

    #[test]
    fn options_of_later_versions_are_refused_by_name() {
        for option in ["--network nat", "--volume /a:/b", "--publish 1:2:3"] {
            let error = words(&format!("outlast vm create web --image base {option}")).unwrap_err();
            assert!(error.message().contains(option), "{}", error.message());
        }
    }
}

//! From the words after `outlast run` to a request: numbers read, contradictions refused, later options named.

use crate::args::RunArgs;
use crate::failure::Failure;
use outlast_control::{AcceleratorChoice, DEFAULT_TIMEOUT, RunRequest, Stdin, What};
use outlast_model::limit::{OUTPUT_BYTES, OUTPUT_BYTES_MAX, SOURCE_BYTES};
use outlast_model::spec::EnvVar;
use outlast_model::{Memory, Timeout, VcpuCount};
use outlast_wire::exit_code::FailureKind;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What was typed, understood.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The request.
    pub(crate) request: RunRequest,
    /// Where files that come back go.
    pub(crate) output_dir: Option<PathBuf>,
}

/// Understands what was typed. `own_stdin` is read only when the source is to come from it.
///
/// # Errors
/// The first thing that makes no sense, with the option's name.
pub(crate) fn plan(args: RunArgs, own_stdin: impl Read) -> Result<Plan, Failure> {
    refuse_later(&args)?;
    let arguments = words(&args.rest)?;
    let stdin = stdin(&args)?;
    let accelerator = accelerator(&args.accel)?;
    let limits = Limits::read(&args)?;
    if args.detach && args.output_dir.is_some() {
        return Err(bad("--output-dir waits for the end of the run and --detach does not wait")
            .hint("leave out one of the two"));
    }
    if let Some(directory) = &args.output_dir {
        check_output_dir(directory)?;
    }
    let env = env(&args.env)?;
    let (what, arguments) = what(&args, arguments, own_stdin)?;
    let request = RunRequest {
        what,
        arguments,
        vcpus: limits.vcpus,
        memory: limits.memory,
        timeout: limits.timeout,
        env,
        stdin,
        output_limit: limits.output,
        outputs: args.output_dir.is_some(),
        accelerator,
        cold: args.cold,
        idempotency_key: args.idempotency_key,
        leased: !args.detach,
    };
    Ok(Plan { request, output_dir: args.output_dir })
}

fn bad(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::BadInput, message)
}

/// Options that later versions will have, refused by name.
fn refuse_later(args: &RunArgs) -> Result<(), Failure> {
    let one_of = |option: &str, value: &str, available: &[&str], later: &[&str]| {
        if available.contains(&value) {
            return Ok(());
        }
        let known = available.join(" or ");
        let name = value.split(':').next().unwrap_or_default();
        Err(if later.contains(&name) {
            bad(format!("{option} {} is not available in this version; only {known} is", shown(value)))
        } else {
            bad(format!("{option} does not know '{}'; it knows {known}", shown(value)))
        })
    };
    one_of("--network", &args.network, &["none"], &["nat", "cni"])?;
    one_of("--backend", &args.backend, &["qemu"], &["firecracker", "cloud-hypervisor"])?;
    one_of("--isolation", &args.isolation, &["auto", "microvm"], &[])?;
    let later = [
        ("--network-policy", args.network_policy.as_ref()),
        ("--allow", args.allow.first()),
        ("--volume", args.volume.first()),
    ];
    match later.into_iter().find_map(|(option, value)| Some((option, value?))) {
        Some((option, value)) => {
            Err(bad(format!("{option} {} is not available in this version", shown(value))))
        }
        None => Ok(()),
    }
}

fn words(words: &[OsString]) -> Result<Vec<String>, Failure> {
    let word = |(index, word): (usize, &OsString)| {
        let text = word.to_str().map(str::to_owned);
        text.ok_or_else(|| {
            bad(format!("argument {} is not UTF-8: {}", index + 1, shown(&word.to_string_lossy())))
        })
    };
    words.iter().enumerate().map(word).collect()
}

fn stdin(args: &RunArgs) -> Result<Stdin, Failure> {
    match &args.stdin {
        None => Ok(Stdin::Nothing),
        Some(path) if path.as_os_str() == "-" => {
            if args.file.as_deref() == Some(Path::new("-")) {
                return Err(bad("the source and --stdin cannot both be standard input")
                    .hint("give one of them as a file"));
            }
            Ok(Stdin::Own)
        }
        Some(path) => Ok(Stdin::File(path.clone())),
    }
}

fn accelerator(text: &str) -> Result<AcceleratorChoice, Failure> {
    match text {
        "auto" => Ok(AcceleratorChoice::Auto),
        "kvm" => Ok(AcceleratorChoice::Kvm),
        "tcg" => Ok(AcceleratorChoice::Tcg),
        other => Err(bad(format!("--accel does not know '{}'; it knows auto, kvm, tcg", shown(other)))),
    }
}

struct Limits {
    vcpus: VcpuCount,
    memory: Option<Memory>,
    timeout: Timeout,
    output: u64,
}

impl Limits {
    fn read(args: &RunArgs) -> Result<Self, Failure> {
        let vcpus = |text: &String| {
            let count = text.parse().ok().and_then(VcpuCount::new);
            let most = VcpuCount::MAX;
            count.ok_or_else(|| bad(format!("--vcpus {}: a machine has 1 to {most} vCPUs", shown(text))))
        };
        let size = |option: &'static str| {
            move |text: &String| text.parse::<Memory>().map_err(|error| bad(format!("{option}: {error}")))
        };
        let timeout =
            |text: &String| text.parse::<Timeout>().map_err(|error| bad(format!("--timeout: {error}")));
        Ok(Self {
            vcpus: args.vcpus.as_ref().map(vcpus).transpose()?.unwrap_or(VcpuCount::ONE),
            memory: args.memory.as_ref().map(size("--memory")).transpose()?,
            timeout: args.timeout.as_ref().map(timeout).transpose()?.unwrap_or(DEFAULT_TIMEOUT),
            output: args.output_limit.as_deref().map(output_limit).transpose()?.unwrap_or(OUTPUT_BYTES),
        })
    }
}

fn output_limit(text: &str) -> Result<u64, Failure> {
    let bytes = text.parse::<Memory>().map_err(|error| bad(format!("--output-limit: {error}")))?.bytes();
    if bytes > OUTPUT_BYTES_MAX {
        return Err(bad(format!("--output-limit {}: at most 1G can be kept", shown(text))));
    }
    Ok(bytes)
}

fn env(assignments: &[OsString]) -> Result<Vec<EnvVar>, Failure> {
    // A value may be a secret: it is not repeated in an error.
    let read = |assignment: &OsString| {
        let text = assignment.to_str().ok_or_else(|| bad("--env: an assignment is not UTF-8"))?;
        EnvVar::parse(text).map_err(|error| bad(format!("--env: {error}")).hint("--env NAME=VALUE"))
    };
    assignments.iter().map(read).collect()
}

fn check_output_dir(directory: &Path) -> Result<(), Failure> {
    let shown_path = directory.display();
    match std::fs::read_dir(directory).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => {
            Err(bad(format!("--output-dir {shown_path} is not empty, and nothing in it is overwritten"))
                .hint("name a new directory"))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(bad(format!("--output-dir {shown_path} cannot be used: {error}"))),
    }
}

/// What runs, and the arguments that remain for it.
fn what(args: &RunArgs, rest: Vec<String>, own_stdin: impl Read) -> Result<(What, Vec<String>), Failure> {
    if let (Some(image), Some(_)) = (&args.image, &args.runtime) {
        return Err(bad("--runtime is for source code and --image for a command: not both")
            .hint(format!("outlast run --image {image} -- COMMAND")));
    }
    let chosen = [
        ("a file", args.file.is_some()),
        ("--archive", args.archive.is_some()),
        ("--image", args.image.is_some()),
    ];
    let given: Vec<&str> = chosen.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
    match given.as_slice() {
        [] => {
            return Err(bad("nothing to run: name a file, - for standard input, an --archive or an --image")
                .hint("outlast run hello.py"));
        }
        [_] => {}
        several => return Err(bad(format!("{} cannot be given together", several.join(" and ")))),
    }
    if args.entry.is_some() && args.archive.is_none() {
        return Err(bad("--entry names a file in an --archive, and none is given"));
    }
    if let Some(image) = &args.image {
        return Ok((What::Command { image: image.clone(), argv: rest }, Vec::new()));
    }
    let runtime = args.runtime.clone();
    if let Some(path) = &args.archive {
        return Ok((What::Archive { path: path.clone(), entry: args.entry.clone(), runtime }, rest));
    }
    let path = args.file.clone().unwrap_or_default();
    if path.as_os_str() != "-" {
        return Ok((What::File { path, runtime }, rest));
    }
    let Some(runtime) = runtime else {
        return Err(bad("source code on standard input has no name that tells its runtime")
            .hint("outlast run --runtime python -"));
    };
    Ok((What::Inline { code: read_source(own_stdin)?, runtime }, rest))
}

/// One byte more than is allowed is enough for the check that follows.
fn read_source(from: impl Read) -> Result<Vec<u8>, Failure> {
    let mut code = Vec::new();
    let read = from.take(SOURCE_BYTES + 1).read_to_end(&mut code);
    read.map_err(|error| Failure::new(FailureKind::Failed, format!("cannot read standard input: {error}")))?;
    Ok(code)
}

fn shown(text: &str) -> String {
    text.chars().take(60).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn planned(line: &str) -> Result<Plan, Failure> {
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        let Command::Run(args) = cli.command else { panic!("{line}") };
        plan(*args, b"print(1)".as_slice())
    }

    fn refusal(line: &str) -> String {
        format!("{:?}", planned(line).unwrap_err())
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let Plan { request, output_dir } = planned("outlast run hello.py").unwrap();
        assert_eq!((request.vcpus, request.memory, request.timeout), (VcpuCount::ONE, None, DEFAULT_TIMEOUT));
        assert_eq!((request.output_limit, request.leased, request.outputs), (16 << 20, true, false));
        assert!(matches!(request.what, What::File { runtime: None, .. }) && output_dir.is_none());
        assert!(!planned("outlast run --detach hello.py").unwrap().request.leased);
    }

    #[test]
    fn every_way_to_say_what_runs_is_understood() {
        let what = |line: &str| planned(line).unwrap().request;
        let inline = what("outlast run --runtime python - -- a b");
        assert!(matches!(inline.what, What::Inline { code, .. } if code == b"print(1)"));
        assert_eq!(inline.arguments, ["a", "b"]);
        let command = what("outlast run --image base -- sh -c true");
        assert!(matches!(command.what, What::Command { argv, .. } if argv == ["sh", "-c", "true"]));
        assert!(command.arguments.is_empty());
        let archive = what("outlast run --archive t.tgz --entry a.py");
        assert!(matches!(archive.what, What::Archive { entry: Some(_), runtime: None, .. }));
    }

    #[test]
    fn numbers_that_make_no_sense_name_their_option() {
        for (line, words) in [
            ("outlast run --vcpus 0 x.py", "1 to 32"),
            ("outlast run --vcpus 33 x.py", "1 to 32"),
            ("outlast run --vcpus two x.py", "--vcpus two"),
            ("outlast run --timeout 0 x.py", "--timeout: a timeout must be more than zero"),
            ("outlast run --timeout soon x.py", "--timeout: 'soon'"),
            ("outlast run --memory lots x.py", "--memory: 'lots'"),
            ("outlast run --memory 0 x.py", "--memory: a size must be more than zero"),
            ("outlast run --output-limit 0 x.py", "--output-limit"),
            ("outlast run --output-limit 2T x.py", "--output-limit 2T"),
            ("outlast run --env novalue x.py", "--env: 'novalue'"),
            ("outlast run --env =x x.py", "--env"),
            ("outlast run --accel warp x.py", "auto, kvm, tcg"),
        ] {
            let text = refusal(line);
            assert!(text.contains(words), "{line}: {text}");
        }
    }

    #[test]
    fn a_secret_is_not_repeated_in_an_error() {
        let text = refusal("outlast run --env 1X=hunter2 x.py");
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn options_of_later_versions_are_refused_by_name() {
        for (line, words) in [
            (
                "outlast run --network nat x.py",
                "--network nat is not available in this version; only none is",
            ),
            ("outlast run --network cni:foo x.py", "--network cni:foo is not available"),
            ("outlast run --network dance x.py", "does not know 'dance'"),
            ("outlast run --backend firecracker x.py", "only qemu is"),
            ("outlast run --volume a:b x.py", "--volume a:b is not available"),
            ("outlast run --allow a x.py", "--allow a is not available"),
            ("outlast run --network-policy required x.py", "--network-policy required is not available"),
        ] {
            let text = refusal(line);
            assert!(text.contains(words), "{line}: {text}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for line in [
            "outlast run",
            "outlast run x.py --archive y.tgz",
            "outlast run x.py --image base -- ls",
            "outlast run --entry a.py x.py",
            "outlast run --image base --runtime python -- ls",
            "outlast run -",
            "outlast run --runtime python --stdin - -",
            "outlast run --detach --output-dir o x.py",
            "outlast run --output-dir / x.py",
        ] {
            planned(line).unwrap_err();
        }
    }
}

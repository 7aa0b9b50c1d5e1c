//! What is refused and what is made of what is not. Images here have manifests and no content that boots.

use super::check::memory_for;
use super::program::environment;
use super::*;
use crate::error::Error;
use crate::site::Site;
use outlast_machine::image::Runtime;
use outlast_model::limit::{ARGUMENT_BYTES, IDEMPOTENCY_KEY_BYTES, OUTPUT_BYTES_MAX};
use outlast_wire::paths::Places;
use proptest::prelude::*;

fn site() -> (tempfile::TempDir, Site) {
    let top = tempfile::tempdir().unwrap();
    let at = |name: &str| top.path().join(name);
    let site = Site::new(Places::new(at("home"), at("run"), at("library")), at("bin"));
    (top, site)
}

fn request(what: What) -> RunRequest {
    RunRequest {
        what,
        arguments: Vec::new(),
        vcpus: VcpuCount::ONE,
        memory: None,
        timeout: DEFAULT_TIMEOUT,
        env: Vec::new(),
        stdin: Stdin::Nothing,
        output_limit: 1024,
        outputs: false,
        accelerator: AcceleratorChoice::Tcg,
        cold: false,
        idempotency_key: None,
        leased: true,
    }
}

fn inline(runtime: &str) -> What {
    What::Inline { code: b"print(1)".to_vec(), runtime: runtime.to_owned() }
}

fn refusal(request: RunRequest) -> Error {
    let (top, site) = site();
    let error = check(&site, request).unwrap_err();
    assert_eq!(std::fs::read_dir(top.path()).unwrap().count(), 0, "nothing is made");
    error
}

#[test]
fn an_unknown_runtime_is_refused_with_the_list_and_the_next_command() {
    let error = refusal(request(inline("cobol")));
    assert!(matches!(error, Error::Request(RequestError::UnknownRuntime { .. })));
    assert!(error.to_string().contains("python, node, go"), "{error}");
    assert!(error.hint().unwrap().contains("outlast image build python"));
    let error = refusal(request(inline("../../etc")));
    assert!(matches!(error, Error::Request(RequestError::UnknownRuntime { .. })));
}

#[test]
fn a_runtime_that_is_not_built_says_how_to_build_it() {
    let error = refusal(request(inline("python")));
    assert!(error.to_string().contains("outlast image build python"), "{error}");
}

#[test]
fn a_file_name_that_tells_no_runtime_is_refused_with_those_that_do() {
    let top = tempfile::tempdir().unwrap();
    let path = top.path().join("notes.txt");
    std::fs::write(&path, "print(1)").unwrap();
    let error = refusal(request(What::File { path, runtime: None }));
    assert!(matches!(error, Error::Request(RequestError::NoRuntimeFor { .. })));
    assert!(
        error.to_string().contains(".py python") && error.hint().unwrap().contains("--runtime"),
        "{error}"
    );
}

#[test]
fn limits_are_checked_before_anything_is_looked_up() {
    for limit in [0, OUTPUT_BYTES_MAX + 1] {
        let error = refusal(RunRequest { output_limit: limit, ..request(inline("python")) });
        assert!(matches!(error, Error::Request(RequestError::OutputLimit { .. })));
    }
    for key in [String::new(), "k".repeat(IDEMPOTENCY_KEY_BYTES + 1)] {
        let error = refusal(RunRequest { idempotency_key: Some(key), ..request(inline("python")) });
        assert!(matches!(error, Error::Request(RequestError::KeyLength { .. })));
    }
}

#[test]
fn standard_input_must_be_there_and_be_a_file() {
    let stdin = |path: &str| RunRequest { stdin: Stdin::File(path.into()), ..request(inline("python")) };
    assert!(matches!(refusal(stdin("/nowhere/at/all")), Error::Request(RequestError::Read { .. })));
    assert!(matches!(refusal(stdin("/")), Error::Request(RequestError::NotAFile { .. })));
}

/// Tests that need an image: a library with one of the given memory needs.
mod with_image {
    use super::*;
    use crate::request::check::Checked;
    use outlast_machine::image::{self, Image};
    use outlast_wire::image as wire;

    const MIB: u64 = 1 << 20;

    /// A library with an image `python` whose files are empty of sense.
    fn library() -> (tempfile::TempDir, Site, Image) {
        let (top, site) = site();
        let library = site.places().library();
        let stored = library.images().join(".store/x");
        std::fs::create_dir_all(&stored).unwrap();
        let mut record = wire::ImageManifest {
            format: wire::IMAGE_FORMAT,
            name: "python".to_owned(),
            digest: "00".repeat(32),
            created: 1,
            distribution: wire::Distribution {
                id: "debian".to_owned(),
                suite: "bookworm".to_owned(),
                sources: vec![],
            },
            kernel: wire::KernelVersion {
                release: "6.1".to_owned(),
                package: "l".to_owned(),
                version: "1".to_owned(),
            },
            parts: ["vmlinux", "modules.cpio", "rootfs.squashfs"]
                .map(|name| wire::Part { name: name.to_owned(), sha256: "ab".repeat(32), size: 1 })
                .to_vec(),
            runtime: Some(wire::Runtime {
                name: "python".to_owned(),
                file_name: "main.py".to_owned(),
                extensions: vec!["py".to_owned(), "pyw".to_owned()],
                command: vec!["python3".to_owned()],
                env: vec!["PYTHONUNBUFFERED=1".to_owned()],
                warm_up: vec![],
            }),
            memory: wire::MemoryNeeds {
                min_limit: 128 * MIB,
                min_machine: 96 * MIB,
                reserve: 90 * MIB,
                reserve_share: 0,
            },
            memory_lean: None,
            packages: vec![],
        };
        record.digest = outlast_machine::image::manifest::content_digest(&record).to_string();
        std::fs::write(stored.join("manifest.json"), serde_json::to_vec(&record).unwrap()).unwrap();
        std::os::unix::fs::symlink(".store/x", library.images().join("python")).unwrap();
        let image = image::open(&library, "python").unwrap();
        (top, site, image)
    }

    fn checked(what: What) -> Result<Checked, Error> {
        let (_top, site, _image) = library();
        check(&site, request(what))
    }

    #[test]
    fn memory_is_the_limit_plus_the_reserve_in_steps() {
        let (_top, _site, image) = library();
        let mib = |mib| Memory::from_mib(mib).unwrap();
        let host = mib(4096);
        let machine = |asked| {
            memory_for((image.name(), image.manifest().memory()), asked, host)
                .map(|(limit, machine)| (limit.mib(), machine.mib()))
        };
        assert_eq!(machine(None).unwrap(), (256, 384));
        assert_eq!(machine(Some(mib(128))).unwrap(), (128, 256));
        assert_eq!(machine(Some(mib(166))).unwrap(), (166, 256));
        assert_eq!(machine(Some(mib(167))).unwrap(), (167, 320));
        let small = machine(Some(mib(64))).unwrap_err();
        assert!(small.to_string().contains("128M") && small.hint().unwrap().contains("128M"), "{small}");
        let large = machine(Some(mib(4096))).unwrap_err();
        assert!(large.to_string().contains("4G") && large.to_string().contains("4096 MiB"), "{large}");
    }

    proptest! {
        #[test]
        fn a_machine_always_holds_its_limit_and_fits_the_host(limit in 1u64..1 << 45, host in 1u64..1 << 45) {
            let (_top, _site, image) = library();
            let memory = |bytes| Memory::from_bytes(bytes).unwrap();
            if let Ok((asked, machine)) = memory_for((image.name(), image.manifest().memory()), Some(memory(limit)), memory(host)) {
                prop_assert!(machine >= asked && machine.bytes() <= host && machine.bytes() % (64 * MIB) == 0);
            }
        }
    }

    #[test]
    fn a_file_becomes_the_runtimes_usual_one_with_its_own_ending() {
        let top = tempfile::tempdir().unwrap();
        for (name, in_guest) in [("hello.py", "main.py"), ("hello.pyw", "main.pyw")] {
            let path = top.path().join(name);
            std::fs::write(&path, "print(1)").unwrap();
            let checked = checked(What::File { path, runtime: None }).unwrap();
            assert_eq!(checked.spec.argv, ["python3", in_guest]);
            assert!(matches!(checked.files, Files::One { name, .. } if name == in_guest));
            assert_eq!(checked.spec.runtime.as_deref(), Some("python"));
        }
        let path = top.path().join("script");
        std::fs::write(&path, "print(1)").unwrap();
        let checked = checked(What::File { path, runtime: Some("python".to_owned()) }).unwrap();
        assert_eq!(checked.spec.argv, ["python3", "main.py"]);
    }

    #[test]
    fn sources_that_are_missing_empty_or_no_files_are_refused() {
        let top = tempfile::tempdir().unwrap();
        let file = |path| checked(What::File { path, runtime: Some("python".to_owned()) }).unwrap_err();
        let missing = file(top.path().join("no.py"));
        assert!(missing.to_string().contains("no.py"), "{missing}");
        let empty = top.path().join("empty.py");
        std::fs::write(&empty, " \n").unwrap();
        assert!(matches!(file(empty), Error::Request(RequestError::EmptySource { .. })));
        assert!(matches!(file(top.path().to_owned()), Error::Request(RequestError::NotAFile { .. })));
    }

    #[test]
    fn a_command_runs_without_a_runtime_and_must_be_there() {
        let command = |argv: &[&str]| {
            let argv = argv.iter().map(|&word| word.to_owned()).collect();
            checked(What::Command { image: "python".to_owned(), argv })
        };
        let checked = command(&["nproc", "--all"]).unwrap();
        assert_eq!((checked.spec.argv.len(), checked.spec.runtime), (2, None));
        assert!(matches!(command(&[]), Err(Error::Request(RequestError::NoCommand { .. }))));
        assert!(matches!(command(&[""]), Err(Error::Request(RequestError::NoCommand { .. }))));
        let missing = checked_error(What::Command { image: "nope".to_owned(), argv: vec![] });
        assert!(missing.contains("built: python; can be built: base, python"), "{missing}");
        let missing = checked_error(What::Command { image: "base".to_owned(), argv: vec![] });
        assert!(missing.contains("outlast image build base"), "{missing}");
    }

    fn checked_error(what: What) -> String {
        checked(what).unwrap_err().to_string()
    }

    #[test]
    fn arguments_are_bounded() {
        let (_top, site, _image) = library();
        let with = |argument: String| RunRequest { arguments: vec![argument], ..request(inline("python")) };
        let long = check(&site, with("x".repeat(ARGUMENT_BYTES))).unwrap_err();
        assert!(matches!(long, Error::Request(RequestError::ArgumentsTooLong { .. })));
        let zero = check(&site, with("a\0b".to_owned())).unwrap_err();
        assert!(matches!(zero, Error::Request(RequestError::ZeroByte { .. })));
    }
}

#[test]
fn the_users_environment_wins_over_the_runtimes_and_that_over_ours() {
    let parse = |text: &str| EnvVar::parse(text).unwrap();
    let runtime = Runtime {
        name: "r".to_owned(),
        file_name: "main.r".to_owned(),
        extensions: vec![],
        command: vec!["r".to_owned()],
        env: vec![parse("LANG=runtime"), parse("MODE=runtime")],
        warm_up: vec![],
    };
    let all = environment(Some(&runtime), &[parse("MODE=first"), parse("MODE=user"), parse("X=")]);
    assert!(all.contains(&"LANG=runtime".to_owned()) && all.contains(&"MODE=user".to_owned()), "{all:?}");
    assert!(all.contains(&"X=".to_owned()) && all.iter().any(|entry| entry.starts_with("PATH=/")), "{all:?}");
    let names: Vec<&str> = all.iter().filter_map(|entry| Some(entry.split_once('=')?.0)).collect();
    let mut unique = names.clone();
    unique.dedup();
    assert_eq!(names, unique, "a name comes once");
}

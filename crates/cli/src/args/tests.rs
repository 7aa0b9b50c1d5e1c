//! The definition is consistent, and what the contract shows can be typed.

use super::*;
use clap::CommandFactory;

fn typed(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

fn run(line: &str) -> RunArgs {
    match typed(line).unwrap().command {
        Command::Run(args) => *args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn everything_the_contract_shows_can_be_typed() {
    for line in [
        "outlast doctor --fix --json",
        "outlast --json doctor",
        "outlast image build node go base",
        "outlast image build vmm",
        "outlast image ls",
        "outlast image rm python",
        "outlast image verify",
        "outlast image verify python vmm",
        "outlast image add mine --kernel k --rootfs r --modules m --min-memory 96M --replace --no-boot",
        "outlast image prune --older-than 30d --dry-run",
        "outlast template prune --older-than 0 --keep-size 10G",
        "outlast prune --dry-run --json",
        "outlast run examples/hello.py",
        "outlast run --runtime python -",
        "outlast run --timeout 5s examples/sleep10.py",
        "outlast run --image base -- sh -c true",
        "outlast run --vcpus 2 --memory 256M --env A=b --env C=d=e --stdin f --output-dir o x.py -- a -b --c",
        "outlast run --archive T.tar.gz --entry main.py --runtime python --output-limit 16M",
        "outlast run --network none --isolation microvm --backend qemu --accel tcg --cold x.py",
        "outlast run --detach --idempotency-key K --json x.py",
        "outlast run --network nat --network-policy required --allow h:1 --volume a:b x.py",
        "outlast template ls",
        "outlast template rm abc",
        "outlast ps",
        "outlast ps -a",
        "outlast logs -f ID",
        "outlast logs --console ID",
        "outlast kill ID",
        "outlast show ID",
        "outlast audit verify",
        "outlast audit verify --since 12:ab --json",
        "outlast events -f",
        "outlast completions bash",
        "outlast man /tmp/x",
        "outlast vm start web",
        "outlast vm snapshot web before-upgrade",
        "outlast vm snapshots ls web --json",
        "outlast vm snapshots verify web",
        "outlast vm snapshots verify web before-upgrade",
        "outlast vm snapshots rm web before-upgrade",
        "outlast vm restore --force web before-upgrade --json",
        "outlast serve --listen 127.0.0.1:7070",
        "outlast image import x --y",
        "outlast prove crash --runs 3",
    ] {
        typed(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn what_stands_behind_two_dashes_is_the_programs() {
    let args = run("outlast run x.py -- --json -f --timeout 5s");
    assert_eq!(args.rest.len(), 4);
    assert_eq!(args.file.unwrap().to_str(), Some("x.py"));
    let args = run("outlast run --image base -- sh -c true");
    assert_eq!((args.file, args.rest.len()), (None, 3));
}

#[test]
fn numbers_are_not_judged_here() {
    // Bad ones get an error that names the option and the limit, which a parser of words cannot give.
    assert_eq!(run("outlast run --vcpus 0 --timeout 0 --memory -1 x.py").vcpus.as_deref(), Some("0"));
}

#[test]
fn rubbish_is_refused() {
    for line in [
        "outlast",
        "outlast dance",
        "outlast run --dance",
        "outlast show",
        "outlast run a.py b.py",
        "outlast vm snapshot web",
        "outlast vm restore web",
    ] {
        assert!(typed(line).is_err(), "{line}");
    }
}

//! `outlast vm exec`.

use super::terminal::{self, Raw};
use super::{Form, bad};
use crate::args::VmExecArgs;
use crate::failure::Failure;
use crate::output::progress::warn;
use crate::output::stream::{Collected, OwnStreams};
use crate::output::{facts, json, note};
use outlast_control::vm::{Company, Ended, Program};
use outlast_control::{HANG_UP, Interrupts, RESIZED, Sink, Site};
use outlast_model::spec::EnvVar;
use outlast_model::{Outcome, Timeout};
use outlast_wire::control::ExecRequest;
use outlast_wire::exit_code::{of_outcome, run};
use outlast_wire::record::OutcomeRecord;
use outlast_wire::vm_live_view::{VmDetachedView, VmExecView};
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;

pub(super) fn exec(site: &Site, args: &VmExecArgs, form: Form) -> Result<u8, Failure> {
    let request = plan(args, terminal::size(&io::stdin()))?;
    if request.pty && form == Form::Json {
        return Err(bad("a program on a terminal is watched, and --json is not: leave out one of the two"));
    }
    if args.tty && args.stdin && !terminal::is_one(&io::stdin()) {
        return Err(bad("-t passes keys on, and standard input is not a terminal").hint("leave out -t"));
    }
    let program = outlast_control::vm::exec(site, &args.name, request)?;
    match (args.detach, form) {
        (true, _) => print_number(&program, form),
        (false, Form::Text) if args.tty && args.stdin => on_terminal(program),
        (false, Form::Text) => {
            let ended = beside(program, args.stdin, &mut OwnStreams::default())?;
            Ok(tell(&ended))
        }
        (false, Form::Json) => as_json(program, args.stdin),
    }
}

fn plan(args: &VmExecArgs, (rows, columns): (u16, u16)) -> Result<ExecRequest, Failure> {
    let word = |(index, word): (usize, &OsString)| {
        let text = word.to_str().filter(|text| !text.contains('\0')).map(str::to_owned);
        text.ok_or_else(|| bad(format!("argument {} is not UTF-8", index + 1)))
    };
    // A value may be a secret: it is not repeated in an error.
    let assignment = |assignment: &OsString| -> Result<String, Failure> {
        let text = assignment.to_str().ok_or_else(|| bad("--env: an assignment is not UTF-8"))?;
        let read =
            EnvVar::parse(text).map_err(|error| bad(format!("--env: {error}")).hint("--env NAME=VALUE"))?;
        Ok(read.assignment())
    };
    let timeout = |text: &String| text.parse::<Timeout>().map_err(|error| bad(format!("--timeout: {error}")));
    Ok(ExecRequest {
        argv: args.command.iter().enumerate().map(word).collect::<Result<_, _>>()?,
        env: args.env.iter().map(assignment).collect::<Result<_, _>>()?,
        cwd: args.workdir.clone(),
        user: args.user.clone(),
        stdin: args.stdin,
        pty: args.tty,
        rows,
        columns,
        timeout_ms: args.timeout.as_ref().map(timeout).transpose()?.map(Timeout::millis),
        detach: args.detach,
        output_limit: None,
    })
}

fn print_number(program: &Program<'_>, form: Form) -> Result<u8, Failure> {
    let (name, exec) = (program.vm(), program.number());
    match form {
        Form::Text => facts(&format!("{exec}\n"))?,
        Form::Json => {
            let (incarnation, log) = (program.incarnation(), program.log().display().to_string());
            json(&VmDetachedView { name, incarnation, exec, log })?;
        }
    }
    Ok(0)
}

/// With our terminal in raw mode: Ctrl-C is a key like any other, and what it does is the guest's business.
fn on_terminal(program: Program<'_>) -> Result<u8, Failure> {
    let input = io::stdin();
    let signals = Interrupts::block_also(&[HANG_UP, RESIZED]).map_err(|error| terminal::failed(&error))?;
    let raw = Raw::all(&input).map_err(|error| terminal::failed(&error))?;
    let company = Company {
        sink: &mut OwnStreams::default(),
        input: Some(input.as_fd()),
        signals: Some(&signals),
        passes_interrupt: true,
        size: Some(&|| terminal::size(&io::stdin())),
    };
    let ended = program.attend(company);
    // Order matters: nobody is told anything on a terminal that is still raw.
    drop(raw);
    Ok(tell(&ended?))
}

fn beside(program: Program<'_>, with_input: bool, sink: &mut dyn Sink) -> Result<Ended, Failure> {
    let input = io::stdin();
    let signals = Interrupts::block_also(&[HANG_UP]).ok();
    let input = with_input.then(|| input.as_fd());
    Ok(program.attend(Company {
        sink,
        input,
        signals: signals.as_ref(),
        passes_interrupt: true,
        size: None,
    })?)
}

fn as_json(program: Program<'_>, with_input: bool) -> Result<u8, Failure> {
    let (name, incarnation, exec) = (program.vm(), program.incarnation(), program.number());
    let mut collected = Collected::default();
    let ended = beside(program, with_input, &mut collected)?;
    let code = code_of(&ended);
    let Ended { outcome, truncated_bytes } = ended;
    let (stdout, stderr) = collected.into_texts();
    let outcome = OutcomeRecord::from(&outcome);
    json(&VmExecView { name, incarnation, exec, outcome, stdout, stderr, truncated_bytes })?;
    Ok(code)
}

/// The exit code: the program's own says that all of its output is here.
fn code_of(ended: &Ended) -> u8 {
    if ended.truncated_bytes > 0 { run::OURS } else { of_outcome(&ended.outcome) }
}

/// What there is to say beside the output, and the exit code: nothing when the program ended by itself, as with any
/// local one.
fn tell(ended: &Ended) -> u8 {
    if ended.truncated_bytes > 0 {
        warn(&format!("output truncated, {} bytes dropped", ended.truncated_bytes));
    }
    match &ended.outcome {
        Outcome::Completed | Outcome::Exited { .. } | Outcome::Signalled { .. } => {}
        outcome => note(&format!("outlast: {outcome}")),
    }
    code_of(ended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command, VmCommand};
    use clap::Parser;

    fn args(line: &str) -> VmExecArgs {
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        let Command::Vm(args) = cli.command else { panic!("{line}") };
        let VmCommand::Exec(args) = args.command else { panic!("{line}") };
        args
    }

    #[test]
    fn words_before_the_dashes_are_ours_and_words_behind_them_the_programs() {
        let args =
            args("outlast vm exec -it --env A=b --user 1000:1000 --timeout 5s web -- sh -c true --json");
        let request = plan(&args, (25, 100)).unwrap();
        assert_eq!(request.argv, ["sh", "-c", "true", "--json"]);
        assert_eq!(
            (request.env.as_slice(), request.user.as_deref()),
            (["A=b".to_owned()].as_slice(), Some("1000:1000"))
        );
        assert_eq!((request.stdin, request.pty, request.rows, request.columns), (true, true, 25, 100));
        assert_eq!((request.timeout_ms, request.detach), (Some(5000), false));
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_no_secret_repeated() {
        let refused = |line: &str| plan(&args(line), (24, 80)).unwrap_err();
        assert!(refused("outlast vm exec --timeout soon web -- ls").message().contains("--timeout"));
        let error = refused("outlast vm exec --env 1X=hunter2 web -- ls");
        assert!(error.message().contains("--env") && !error.message().contains("hunter2"));
        for line in ["outlast vm exec web", "outlast vm exec --detach -i web -- ls", "outlast vm exec web ls"]
        {
            assert!(Cli::try_parse_from(line.split_whitespace()).is_err(), "{line}");
        }
    }

    #[test]
    fn an_end_is_told_by_its_code() {
        let code = |outcome| tell(&Ended { outcome, truncated_bytes: 0 });
        assert_eq!(code(Outcome::Exited { code: 3 }), 3);
        assert_eq!(code(Outcome::Signalled { signal: 2 }), 130);
        let cut = Ended { outcome: Outcome::Exited { code: 0 }, truncated_bytes: 1 };
        assert_eq!(tell(&cut), 125, "a copy that is not whole is no success");
        assert_eq!(code(Outcome::Lost { cause: "web ended".to_owned() }), 125);
    }
}

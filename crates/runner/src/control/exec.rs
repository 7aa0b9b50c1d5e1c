//! A request for a program in a VM: checked and completed, passed on, and followed until it has begun.

use super::attached;
use super::desk::{Desk, VmDesk, refused};
use super::frame::{ClientError, send};
use crate::vm::{Ask, Opened, ProgramAsk, remove_log};
use outlast_model::{limit, timeout};
use outlast_wire::control::{Answer, ExecRequest};
use outlast_wire::guest::Exec;
use tokio::net::UnixStream;
use tokio::sync::oneshot;

/// What every program in a VM has in its environment, unless its request says otherwise.
const ENVIRONMENT: [&str; 2] =
    ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"];

/// What a program with a terminal has as well: the least that every terminal does.
const TERMINAL: &str = "TERM=vt100";

/// Runs a program and serves its client until one of the two is gone, or until it has begun when it is detached.
pub(super) async fn attend(
    mut stream: UnixStream,
    desk: &Desk,
    request: ExecRequest,
) -> Result<(), ClientError> {
    let detach = request.detach;
    let (vm, program) = match begin(desk, request).await {
        Ok(begun) => begun,
        Err(cause) => return send(&mut stream, serde_json::to_vec(&refused(cause))).await,
    };
    let log = vm.evidence.exec_log(program.number);
    let started = Answer::ExecStarted { exec: program.number, log: log.clone() };
    let told = send(&mut stream, serde_json::to_vec(&started)).await;
    if detach {
        if told.is_err() {
            // Nobody knows that it runs, nor its number: whoever asked will ask again.
            vm.ask(Ask::Program(ProgramAsk::Kill { number: program.number })).await;
        }
        return told;
    }
    attached::attend(stream, vm, program, &log).await
}

async fn begin(desk: &Desk, request: ExecRequest) -> Result<(&VmDesk, Opened), String> {
    let vm = desk.vm.as_ref().ok_or("this incarnation is no long-lived VM")?;
    let limit = request.output_limit.unwrap_or(limit::OUTPUT_BYTES_MAX);
    let detached = request.detach;
    let exec = complete(request, vm)?;
    let (reply, opened) = oneshot::channel();
    vm.ask(Ask::Program(ProgramAsk::Open { exec, limit, detached, reply })).await;
    let ending = |_| "the VM is ending".to_owned();
    let mut program = opened.await.map_err(ending)?.map_err(|error| crate::boot::chain(&error))?;
    // The guest says soon whether it began; when the VM ends first, that is said instead.
    let cause = match tokio::time::timeout(timeout::AGENT_REQUEST, &mut program.started).await {
        Ok(Ok(Ok(()))) => return Ok((vm, program)),
        Ok(Ok(Err(cause))) => cause,
        Ok(Err(gone)) => ending(gone),
        Err(_) => {
            vm.ask(Ask::Program(ProgramAsk::Kill { number: program.number })).await;
            format!("the agent did not begin it within {} s", timeout::AGENT_REQUEST.as_secs())
        }
    };
    remove_log(&vm.evidence.exec_log(program.number));
    Err(cause)
}

/// The request as the agent wants it.
fn complete(request: ExecRequest, vm: &VmDesk) -> Result<Exec, String> {
    let ExecRequest { argv, env, cwd, user, stdin, pty, rows, columns, timeout_ms, .. } = request;
    if argv.is_empty() {
        return Err("a program is needed".to_owned());
    }
    let (uid, gid) = user.as_deref().map_or(Ok((0, 0)), numbers)?;
    let home = if uid == 0 { "/root" } else { "/home/outlast" };
    let mut whole: Vec<String> = ENVIRONMENT.iter().map(|&assignment| assignment.to_owned()).collect();
    whole.push(format!("HOME={home}"));
    whole.push(format!("HOSTNAME={}", vm.host_name));
    if pty {
        whole.push(TERMINAL.to_owned());
    }
    for assignment in env {
        let name = assignment.split_once('=').map_or(assignment.as_str(), |(name, _)| name);
        whole.retain(|other| other.split_once('=').is_none_or(|(other, _)| other != name));
        whole.push(assignment);
    }
    Ok(Exec {
        argv,
        env: whole,
        cwd: cwd.unwrap_or_else(|| "/".to_owned()),
        uid,
        gid,
        memory_max: vm.limits.memory_max,
        pids_max: vm.limits.pids_max,
        deadline_ms: timeout_ms.unwrap_or(0),
        stdin,
        pty,
        rows: rows.into(),
        columns: columns.into(),
    })
}

/// A user as numbers. Names are the guest's, and which number they have there is not asked.
fn numbers(user: &str) -> Result<(u32, u32), String> {
    let number = |text: &str| text.parse::<u32>().ok();
    let found = match (user, user.split_once(':')) {
        ("root", _) => Some((0, 0)),
        ("outlast", _) => Some((1000, 1000)),
        (_, Some((uid, gid))) => number(uid).zip(number(gid)),
        (uid, None) => number(uid).map(|uid| (uid, uid)),
    };
    found.ok_or_else(|| format!("'{user}' is no user: root, outlast, UID or UID:GID"))
}

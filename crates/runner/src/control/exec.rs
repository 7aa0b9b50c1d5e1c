//! A request for a program in a VM: checked and completed, passed on, and followed until it has begun.

use super::attached;
use super::desk::{Desk, VmDesk, refused};
use super::frame::{ClientError, send};
use crate::vm::{Ask, Opened, ProgramAsk, remove_log};
use outlast_model::{limit, timeout};
use outlast_wire::control::{Answer, ExecRequest};
use outlast_wire::guest::Exec;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::oneshot;

/// What every program in a VM has in its environment, unless its request says otherwise.
const ENVIRONMENT: [&str; 2] =
    ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"];

/// What a program with a terminal has as well: the least that every terminal does.
const TERMINAL: &str = "TERM=vt100";

/// The agent tells the end of a program that is over its time within this; one that does not is as good as gone.
const ANSWERS_WITHIN: Duration = timeout::PROBE;

/// Runs a program and serves its client until one of the two is gone, or until it has begun when it is detached.
pub(super) async fn attend(
    mut stream: UnixStream,
    desk: &Rc<Desk>,
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

/// The second net of a program's deadline: its agent ends it, and one that does not say so in time is not waited for. The
/// time during which the VM is paused is nobody's.
async fn outwait(desk: Rc<Desk>, number: u32, deadline: Duration) {
    let Some(vm) = desk.vm.as_ref() else { return };
    tokio::time::sleep(deadline.saturating_add(ANSWERS_WITHIN)).await;
    while desk.state.get() == "paused" {
        tokio::time::sleep(deadline.saturating_add(ANSWERS_WITHIN)).await;
    }
    let cause = "its time was over, and the guest does not say that it ended it";
    vm.execs.give_up(number, cause);
    // For when the guest listens again.
    vm.ask(Ask::Program(ProgramAsk::Kill { number })).await;
}

async fn begin(desk: &Rc<Desk>, request: ExecRequest) -> Result<(&VmDesk, Opened), String> {
    let vm = desk.vm.as_ref().ok_or("this incarnation is no long-lived VM")?;
    let limit = request.output_limit.unwrap_or(limit::OUTPUT_BYTES_MAX);
    let (detached, deadline) = (request.detach, request.timeout_ms.map(Duration::from_millis));
    let exec = complete(request, vm)?;
    let (reply, opened) = oneshot::channel();
    vm.ask(Ask::Program(ProgramAsk::Open { exec, limit, detached, reply })).await;
    let ending = |_| "the VM is ending".to_owned();
    let mut program = opened.await.map_err(ending)?.map_err(|error| crate::boot::chain(&error))?;
    // The guest says soon whether it began; when the VM ends first, that is said instead.
    let cause = match tokio::time::timeout(timeout::AGENT_REQUEST, &mut program.started).await {
        Ok(Ok(Ok(()))) => {
            if let Some(deadline) = deadline {
                tokio::task::spawn_local(outwait(Rc::clone(desk), program.number, deadline));
            }
            return Ok((vm, program));
        }
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
    let mut whole: Vec<String> = ENVIRONMENT.iter().map(|&assignment| assignment.to_owned()).collect();
    // Names, and where they are at home, are the guest's to know.
    let (uid, gid) = if user.is_some() { (u32::MAX, u32::MAX) } else { (0, 0) };
    if user.is_none() {
        whole.push("HOME=/root".to_owned());
    }
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
        user: user.unwrap_or_default(),
    })
}

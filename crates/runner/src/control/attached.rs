//! A program with a client beside it: the client's input goes in, news of its output and its end go out.
//!
//! ```text
//!   client ── input, signals, sizes ──► guest      (input is taken off the connection as there is room in the guest)
//!   client ◄── grown, ended ─────────── program    (news only, one at a time: the output itself is in its log)
//!   client hangs up ──► the program is killed
//! ```
//!
//! A client may stand still for as long as it likes, as one does that was stopped at a terminal: it holds up nothing
//! but its own program's input.

use super::desk::VmDesk;
use super::frame::{ClientError, receive_patiently, send_patiently};
use crate::vm::{Ask, ExecEnd, Opened, ProgramAsk, remove_log};
use outlast_model::timeout;
use outlast_wire::control::{Answer, Request};
use outlast_wire::guest::MAX_CHUNK;
use outlast_wire::record::OutcomeRecord;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{oneshot, watch};

/// A client whose input waits for room is looked at this often.
const LOOK: Duration = Duration::from_secs(1);

/// Serves the client of a program that has begun, until it hangs up: the program's output log is its own to read as
/// long as it is there, and goes with it.
pub(super) async fn attend(
    stream: UnixStream,
    vm: &VmDesk,
    program: Opened,
    log: &Path,
) -> Result<(), ClientError> {
    let Opened { number, ended, grown, .. } = program;
    let (mut input, mut output) = stream.into_split();
    let mut fed = pin!(feed(&mut input, vm, number));
    let told = tokio::select! {
        biased;
        told = tell(&mut output, number, ended, grown) => Some(told),
        // A client that says something else than the protocol is as good as gone.
        _ = &mut fed => None,
    };
    match told {
        // Its log is the client's to read; one that stands still has opened it.
        Some(Ok(())) => drop(tokio::time::timeout(timeout::DYING, fed).await),
        Some(Err(_)) | None => vm.ask(Ask::Program(ProgramAsk::Kill { number })).await,
    }
    remove_log(log);
    told.unwrap_or(Ok(()))
}

/// Passes on what the client says, until it hangs up.
async fn feed(input: &mut OwnedReadHalf, vm: &VmDesk, number: u32) -> Result<(), ClientError> {
    while let Some(request) = receive_patiently(input).await? {
        match serde_json::from_value(request).map_err(ClientError::Malformed)? {
            Request::Stdin { exec, data, last } if exec == number => {
                tokio::select! {
                    () = feed_input(vm, number, &data, last) => {}
                    () = hung_up(input) => return Ok(()),
                }
            }
            Request::Signal { exec, number: signal } if exec == number => {
                vm.ask(Ask::Program(ProgramAsk::Signal { number, signal, reply: None })).await;
            }
            Request::Resize { exec, rows, columns } if exec == number => {
                vm.ask(Ask::Program(ProgramAsk::Resize { number, size: (rows, columns) })).await;
            }
            // One question at a time: everything else is asked on another connection.
            _ => {}
        }
    }
    Ok(())
}

/// Waits until the client has hung up, although what it sent before is not read. The kernel tells that together with
/// that there is something to read, which is so all the time, so it is looked for once in a while.
async fn hung_up(input: &OwnedReadHalf) {
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        match input.ready(Interest::READABLE).await {
            Ok(ready) if !ready.is_read_closed() => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// Passes input on in pieces for which the guest has room. After the program's end it is dropped.
async fn feed_input(vm: &VmDesk, number: u32, data: &[u8], last: bool) {
    let mut rest = data;
    while !rest.is_empty() {
        let Ok(room) = vm.execs.take_room(number, rest.len().min(MAX_CHUNK)).await else { return };
        let (piece, later) = rest.split_at(room.min(rest.len()));
        vm.ask(Ask::Program(ProgramAsk::Stdin { number, data: piece.to_vec(), last: false })).await;
        rest = later;
    }
    if last {
        vm.ask(Ask::Program(ProgramAsk::Stdin { number, data: Vec::new(), last })).await;
    }
}

/// Tells the client of every growth it has not heard of, and of the end.
async fn tell(
    output: &mut OwnedWriteHalf,
    exec: u32,
    ended: oneshot::Receiver<ExecEnd>,
    mut grown: watch::Receiver<u64>,
) -> Result<(), ClientError> {
    // The sender goes when the program ends.
    while grown.changed().await.is_ok() {
        let log_bytes = *grown.borrow_and_update();
        send_patiently(output, serde_json::to_vec(&Answer::ExecOutput { exec, log_bytes })).await?;
    }
    let ExecEnd { outcome, log_bytes } = ended.await.unwrap_or_else(|_| ExecEnd::lost("the VM ended"));
    let outcome = OutcomeRecord::from(&outcome);
    send_patiently(output, serde_json::to_vec(&Answer::ExecEnded { exec, outcome, log_bytes })).await
}

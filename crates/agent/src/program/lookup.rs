//! Checks an exec request and turns it into what execve takes. Pure: no file is looked at here, the kernel
//! answers which candidate exists.

use super::account::Account;
use super::terminal::WindowSize;
use crate::sys::spawn::{Plan, User};
use outlast_wire::guest::Exec;
use rustix::process::{Gid, Uid};
use std::ffi::CString;
use thiserror::Error;

/// Where programs are looked for when the environment has no PATH, as execvp(3) does.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Why a request can never start a program.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum BadRequest {
    /// `argv` is empty, or its first element is.
    #[error("no program named")]
    NoProgram,
    /// A string with a NUL inside.
    #[error("NUL byte in an argument, the environment or the working directory")]
    Nul,
    /// An element of `env` without `=`.
    #[error("environment entry {0:?} is not KEY=VALUE")]
    Environment(String),
    /// A relative working directory.
    #[error("working directory {0:?} is not absolute")]
    Directory(String),
    /// A limit of 0.
    #[error("{0} is 0: a program without that limit can make the guest livelock")]
    Unlimited(&'static str),
    /// The id that means "no change" to the kernel.
    #[error("{0} is no user or group")]
    Id(u32),
    /// More rows or columns than a terminal can have.
    #[error("no terminal has {0} rows and {1} columns")]
    Size(u32, u32),
}

/// Checks `request`, which is to run as `account`, where that is to be known by its name.
pub(super) fn check(request: &Exec, account: Option<Account>) -> Result<Plan, BadRequest> {
    let program = request.argv.first().filter(|name| !name.is_empty()).ok_or(BadRequest::NoProgram)?;
    if let Some(entry) = request.env.iter().find(|entry| !entry.contains('=')) {
        return Err(BadRequest::Environment(entry.clone()));
    }
    if !request.cwd.starts_with('/') {
        return Err(BadRequest::Directory(request.cwd.clone()));
    }
    if request.memory_max == 0 {
        return Err(BadRequest::Unlimited("memory_max"));
    }
    if request.pids_max == 0 {
        return Err(BadRequest::Unlimited("pids_max"));
    }
    if request.pty && WindowSize::new(request.rows, request.columns).is_none() {
        return Err(BadRequest::Size(request.rows, request.columns));
    }
    Ok(Plan {
        candidates: strings(&candidates(program, &request.env))?,
        arguments: strings(&request.argv)?,
        environment: strings(&environment(&request.env, account.as_ref()))?,
        directory: string(&request.cwd)?,
        user: match account {
            Some(account) => Some(account.user),
            None => user(request.uid, request.gid)?,
        },
        terminal: request.pty,
    })
}

/// The files a name may mean. A name with a slash means itself; empty elements of PATH, which POSIX takes for
/// the working directory, are passed over.
fn candidates(program: &str, env: &[String]) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    let path = env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    path.split(':').filter(|place| !place.is_empty()).map(|place| format!("{place}/{program}")).collect()
}

/// An account knows where it is at home, unless the request knows better.
fn environment(env: &[String], account: Option<&Account>) -> Vec<String> {
    let home = account.map(|account| format!("HOME={}", account.home));
    let home = home.filter(|_| !env.iter().any(|entry| entry.starts_with("HOME=")));
    env.iter().cloned().chain(home).collect()
}

fn user(uid: u32, gid: u32) -> Result<Option<User>, BadRequest> {
    if let Some(id) = [uid, gid].into_iter().find(|id| *id == u32::MAX) {
        return Err(BadRequest::Id(id));
    }
    let user = User { uid: Uid::from_raw(uid), gid: Gid::from_raw(gid), groups: Vec::new() };
    let already = user.uid == rustix::process::geteuid() && user.gid == rustix::process::getegid();
    Ok((!already).then_some(user))
}

fn strings(texts: &[String]) -> Result<Vec<CString>, BadRequest> {
    texts.iter().map(|text| string(text)).collect()
}

fn string(text: &str) -> Result<CString, BadRequest> {
    CString::new(text).map_err(|_| BadRequest::Nul)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Exec {
        Exec {
            argv: vec!["prog".into(), "arg".into()],
            env: vec!["PATH=/one::/two".into(), "A=".into()],
            cwd: "/".into(),
            uid: 1000,
            gid: 1000,
            memory_max: 1,
            pids_max: 1,
            deadline_ms: 0,
            stdin: false,
            pty: false,
            rows: 0,
            columns: 0,
            user: String::new(),
        }
    }

    fn refused(change: impl FnOnce(&mut Exec)) -> BadRequest {
        let mut request = request();
        change(&mut request);
        check(&request, None).unwrap_err()
    }

    #[test]
    fn a_bare_name_is_looked_up_in_the_path_of_its_own_environment() {
        let plan = check(&request(), None).unwrap();
        assert_eq!(plan.candidates, [c"/one/prog", c"/two/prog"].map(CString::from));
        assert_eq!(candidates("prog", &[]), ["/bin/prog", "/usr/bin/prog"]);
    }

    #[test]
    fn a_name_with_a_slash_means_itself() {
        assert_eq!(candidates("./prog", &["PATH=/one".into()]), ["./prog"]);
    }

    #[test]
    fn what_cannot_become_a_program_is_refused() {
        assert_eq!(refused(|r| r.argv.clear()), BadRequest::NoProgram);
        assert_eq!(refused(|r| r.argv = vec![String::new()]), BadRequest::NoProgram);
        assert_eq!(refused(|r| r.argv.push("a\0b".into())), BadRequest::Nul);
        assert_eq!(refused(|r| r.env.push("FOO".into())), BadRequest::Environment("FOO".into()));
        assert_eq!(refused(|r| r.cwd = "tmp".into()), BadRequest::Directory("tmp".into()));
        assert_eq!(refused(|r| r.memory_max = 0), BadRequest::Unlimited("memory_max"));
        assert_eq!(refused(|r| r.pids_max = 0), BadRequest::Unlimited("pids_max"));
        assert_eq!(refused(|r| r.gid = u32::MAX), BadRequest::Id(u32::MAX));
        let broad = |r: &mut Exec| (r.pty, r.columns) = (true, 65536);
        assert_eq!(refused(broad), BadRequest::Size(0, 65536));
    }

    #[test]
    fn a_size_is_nothing_without_a_terminal() {
        let plan = check(&Exec { rows: u32::MAX, ..request() }, None).unwrap();
        assert!(!plan.terminal);
        assert!(check(&Exec { pty: true, rows: 65535, ..request() }, None).unwrap().terminal);
    }

    #[test]
    fn an_account_is_at_home_where_it_is_unless_the_request_says_otherwise() {
        let account = |uid| {
            let user =
                User { uid: Uid::from_raw(uid), gid: Gid::from_raw(7), groups: vec![Gid::from_raw(8)] };
            Account { user, home: "/srv".to_owned() }
        };
        // The numbers of the request mean nothing then.
        let named = Exec { uid: u32::MAX, gid: u32::MAX, ..request() };
        let plan = check(&named, Some(account(5))).unwrap();
        assert!(plan.environment.contains(&c"HOME=/srv".into()));
        assert_eq!(plan.user.unwrap().groups, [Gid::from_raw(8)]);
        let env = vec!["HOME=/own".to_owned()];
        let plan = check(&Exec { env, ..named }, Some(account(5))).unwrap();
        assert_eq!(plan.environment, [CString::from(c"HOME=/own")]);
    }
}

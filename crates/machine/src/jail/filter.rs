//! What a VMM may ask of the kernel: three filters (seccomp(2)) that hold for every thread from before its first
//! instruction, whatever filters it has of its own.
//!
//! | call | answer |
//! |---|---|
//! | one that VMMs use | allowed, some with certain arguments only |
//! | one that only somebody breaking out makes ([`BREAKING_OUT`]) | the VMM is killed (SIGSYS), and its death certificate says so |
//! | `clone3`, whose arguments a filter cannot read | there is no such call; libraries then use `clone` |
//! | any other | not permitted, which software that probes for it copes with |
//!
//! Of several filters the strictest answer counts. Not responsible for what files and devices can be reached: the
//! mount namespace has none but the VMM's own.

use super::JailError;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// What the filters must know of the process they are made for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject {
    /// Its process id; it keeps it when it executes the VMM.
    pub(super) pid: u32,
    /// Where the path of the VMM's program lies in the memory of the process that executes it. Nothing else can be
    /// executed: the address means nothing afterwards, and nobody is told what it was.
    pub(super) program: u64,
}

/// Threads as C libraries make them. Any other flag, or one of these missing, makes processes or namespaces.
const THREAD: u64 = 0x003d_0f00;
/// A flag without meaning, which musl sets.
const DETACHED: u64 = 0x0040_0000;
/// Terminals: what another program on it reads as typed.
const TYPING: [u64; 2] = [libc::TIOCSTI, libc::TIOCLINUX];

/// Calls that VMMs use, with any arguments.
const ALLOWED: &[i64] = &[
    // Files and descriptors that are open, or that the mount namespace shows.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_stat,
    libc::SYS_fstat,
    libc::SYS_lstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_lseek,
    libc::SYS_access,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync_file_range,
    libc::SYS_copy_file_range,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_dup,
    libc::SYS_dup2,
    libc::SYS_dup3,
    libc::SYS_pipe,
    libc::SYS_pipe2,
    libc::SYS_ioctl,
    libc::SYS_memfd_create,
    // Waiting.
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_select,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_signalfd4,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    // Sockets that are open: connections are taken and not made.
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_listen,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    // Memory.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_msync,
    libc::SYS_munlock,
    libc::SYS_brk,
    libc::SYS_membarrier,
    // Threads, signals to oneself, the end.
    libc::SYS_clone3,
    libc::SYS_set_tid_address,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_arch_prctl,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    // A VMM may add filters of its own; they can only forbid more.
    libc::SYS_seccomp,
    // Asking about oneself and the time.
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_getgroups,
    libc::SYS_getrlimit,
    libc::SYS_getrusage,
    libc::SYS_getcpu,
    libc::SYS_getrandom,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_times,
    libc::SYS_time,
    libc::SYS_gettimeofday,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
];

/// Calls that no VMM makes and that no library tries to see whether they are there.
const BREAKING_OUT: &[i64] = &[
    // Files elsewhere.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_execveat,
    // More rights.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // The kernel itself.
    libc::SYS_bpf,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
];

/// Puts the filters on this process, the most patient first: each must still let the next one be put on.
pub(super) fn put_on(subject: Subject) -> Result<(), JailError> {
    for filter in programs(subject)? {
        seccompiler::apply_filter(&filter).map_err(|source| JailError::Filter(source.to_string()))?;
    }
    Ok(())
}

fn programs(subject: Subject) -> Result<[BpfProgram; 3], JailError> {
    let made = || -> Result<[BpfProgram; 3], BackendError> {
        Ok([
            program(breaking_out(subject)?, SeccompAction::KillProcess, SeccompAction::Allow)?,
            program(any(&[libc::SYS_clone3]), SeccompAction::Errno(NO_SUCH_CALL), SeccompAction::Allow)?,
            program(allowed(subject)?, SeccompAction::Allow, SeccompAction::Errno(NOT_PERMITTED))?,
        ])
    };
    made().map_err(|error| JailError::Filter(error.to_string()))
}

const NO_SUCH_CALL: u32 = libc::ENOSYS.unsigned_abs();
const NOT_PERMITTED: u32 = libc::EPERM.unsigned_abs();

fn program(rules: Rules, then: SeccompAction, otherwise: SeccompAction) -> Result<BpfProgram, BackendError> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, otherwise, then, architecture)?.try_into()
}

/// Calls with whatever arguments.
fn any(calls: &[i64]) -> Rules {
    calls.iter().map(|&call| (call, Vec::new())).collect()
}

fn breaking_out(subject: Subject) -> Result<Rules, BackendError> {
    let mut rules = any(BREAKING_OUT);
    rules.insert(libc::SYS_execve, vec![rule(0, SeccompCmpOp::Ne, subject.program)?]);
    let process = SeccompCmpOp::MaskedEq(flag(libc::CLONE_THREAD));
    rules.insert(libc::SYS_clone, vec![rule(0, process, 0)?]);
    // The kernel looks at 32 bits of the request, whatever stands in the others.
    let typing = TYPING.iter().map(|&request| {
        let condition = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, request)?;
        SeccompRule::new(vec![condition])
    });
    rules.insert(libc::SYS_ioctl, typing.collect::<Result<_, _>>()?);
    Ok(rules)
}

fn allowed(subject: Subject) -> Result<Rules, BackendError> {
    let mut rules = any(ALLOWED);
    let unix = vec![rule(0, SeccompCmpOp::Eq, flag(libc::AF_UNIX))?];
    rules.insert(libc::SYS_socket, unix.clone());
    rules.insert(libc::SYS_socketpair, unix);
    rules.insert(libc::SYS_execve, vec![rule(0, SeccompCmpOp::Eq, subject.program)?]);
    rules.insert(libc::SYS_clone, vec![rule(0, SeccompCmpOp::MaskedEq(!DETACHED), THREAD)?]);
    rules.insert(libc::SYS_tgkill, vec![rule(0, SeccompCmpOp::Eq, u64::from(subject.pid))?]);
    // Limits may be read: of oneself, and nothing is set.
    let reading = [condition(0, SeccompCmpOp::Eq, 0)?, condition(2, SeccompCmpOp::Eq, 0)?];
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(reading.into())?]);
    rules.insert(libc::SYS_prctl, one_of(0, &OF_ONESELF.map(flag))?);
    Ok(rules)
}

/// What prctl(2) may be asked: names of threads and mappings, timers, memory errors, and a filter of one's own.
const OF_ONESELF: [libc::c_int; 8] = [
    libc::PR_SET_NAME,
    libc::PR_GET_NAME,
    libc::PR_SET_VMA,
    libc::PR_SET_TIMERSLACK,
    libc::PR_MCE_KILL,
    libc::PR_SET_NO_NEW_PRIVS,
    libc::PR_GET_SECCOMP,
    libc::PR_SET_SECCOMP,
];

fn one_of(argument: u8, values: &[u64]) -> Result<Vec<SeccompRule>, BackendError> {
    values.iter().map(|&value| rule(argument, SeccompCmpOp::Eq, value)).collect()
}

fn rule(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![condition(argument, operator, value)?])
}

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, operator, value)
}

fn flag(bits: libc::c_int) -> u64 {
    u64::from(bits.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const SUBJECT: Subject = Subject { pid: 7, program: 0x7f00_1234_5678 };

    #[test]
    fn the_filters_can_be_made() {
        let programs = programs(SUBJECT).unwrap();
        assert!(programs.iter().all(|program| !program.is_empty() && program.len() < 4096));
    }

    #[test]
    fn no_call_is_both_allowed_and_deadly() {
        let allowed: BTreeSet<i64> = ALLOWED.iter().copied().collect();
        assert_eq!(allowed.len(), ALLOWED.len(), "each once");
        let deadly: BTreeSet<i64> = BREAKING_OUT.iter().copied().collect();
        assert_eq!(deadly.len(), BREAKING_OUT.len(), "each once");
        assert_eq!(allowed.intersection(&deadly).count(), 0);
    }
}

//! Owns the syscall filters of programs: syncing is cheap, and what reaches beyond the image is refused.
//! Never decides which program gets them.
//!
//! See seccomp(2). qemu-user turns its guest's system calls into the host's, so that one filter for the host's
//! architecture serves every guest.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter, sock_filter,
};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// From now on, this thread and the programs it runs wait for no disk: an image under construction
/// that did not survive a power cut is built again.
///
/// Sets `no_new_privs` as well, as seccomp(2) asks for: setuid programs gain nothing.
pub fn ignore_syncs() -> Result<()> {
    let syncs = [
        libc::SYS_fsync,
        libc::SYS_fdatasync,
        libc::SYS_sync,
        libc::SYS_syncfs,
        libc::SYS_sync_file_range,
        libc::SYS_msync,
    ];
    let rules: BTreeMap<i64, Vec<_>> = syncs.map(|call| (call, Vec::new())).into();
    // An error number of 0 is success.
    apply(rules, 0)
}

/// Calls that no maintainer script needs, and that reach the kernel, its keys, other processes or mounts. Most need
/// capabilities that programs do not have; this is the second wall.
const FORBIDDEN: &[i64] = &[
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_fanotify_init,
    libc::SYS_lookup_dcookie,
    libc::SYS_vhangup,
];
/// Calls that must seem not to exist: their callers fall back to others, whose arguments can be looked at.
const ABSENT: &[i64] = &[
    libc::SYS_clone3,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];
/// All flags of clone(2) that make a namespace: `CLONE_NEWNS`, `NEWCGROUP`, `NEWUTS`, `NEWIPC`, `NEWUSER`, `NEWPID`, `NEWNET`.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];
/// ioctl(2) requests that act as the person at the terminal: typing into it, or into the console.
const TYPING: [u64; 2] = [0x5412 /* TIOCSTI */, 0x541c /* TIOCLINUX */];

/// From now on, this thread and the programs it runs are refused what is listed above. Sets `no_new_privs`.
pub fn forbid() -> Result<()> {
    let mut rules: Rules = FORBIDDEN.iter().map(|&call| (call, Vec::new())).collect();
    #[cfg(target_arch = "x86_64")]
    rules.extend(
        [libc::SYS_kexec_file_load, libc::SYS_iopl, libc::SYS_ioperm]
            .map(|call| (call, Vec::new())),
    );
    // The kernel looks at the lower half of the request only.
    rules.insert(
        libc::SYS_ioctl,
        TYPING
            .iter()
            .map(|&request| rule(1, SeccompCmpOp::Eq, request))
            .collect::<Result<_>>()?,
    );
    rules.insert(
        libc::SYS_clone,
        NAMESPACES
            .iter()
            .map(|&flag| {
                let flag = u64::from(flag.cast_unsigned());
                rule(0, SeccompCmpOp::MaskedEq(flag), flag)
            })
            .collect::<Result<_>>()?,
    );
    apply(rules, libc::EPERM)?;
    apply(
        ABSENT.iter().map(|&call| (call, Vec::new())).collect(),
        libc::ENOSYS,
    )
}

fn rule(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?;
    Ok(SeccompRule::new(vec![condition])?)
}

/// Answers the calls of `rules` with an error number. A call of another architecture, such as `int 0x80` of i386, ends
/// the process.
fn apply(rules: Rules, errno: i32) -> Result<()> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)
        .context("hearth knows no syscall filter for this processor")?;
    let action = SeccompAction::Errno(errno.cast_unsigned());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, arch)?;
    let mut program = BpfProgram::try_from(filter)?;
    if cfg!(target_arch = "x86_64") {
        program.splice(0..0, REFUSE_X32);
    }
    apply_filter(&program).context("the kernel took no syscall filter")
}

/// Calls of x32 have the numbers of x86-64's with bit 30, and its architecture: the rules would not know them.
const REFUSE_X32: [sock_filter; 3] = [
    // Load the call's number.
    instruction(0x20, 0, 0, 0),
    // Skip the next unless it is 2^30 or greater.
    instruction(0x35, 0, 1, 0x4000_0000),
    instruction(
        0x06,
        0,
        0,
        libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned(),
    ),
];

const fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_that_would_fail_succeeds_without_being_tried() {
        let (pipe, _writer) = std::io::pipe().unwrap();
        assert!(
            nix::unistd::fsync(&pipe).is_err(),
            "a pipe cannot be synced"
        );
        // A filter is its thread's.
        let filtered = std::thread::spawn(move || {
            ignore_syncs().unwrap();
            (nix::unistd::fsync(&pipe), nix::unistd::fdatasync(&pipe))
        });
        assert_eq!(filtered.join().unwrap(), (Ok(()), Ok(())));
    }

    /// What perl gets for an ioctl(2) on a terminal: the error's number, 0 without one.
    fn ioctl(request: u64, slave: &std::os::fd::OwnedFd) -> String {
        let script = format!("ioctl(STDIN, {request}, my $x = 'x') or print $!+0");
        let output = std::process::Command::new("perl")
            .args(["-e", &script])
            .stdin(slave.try_clone().unwrap())
            .output()
            .unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn typing_into_a_terminal_and_making_namespaces_is_refused_and_threads_still_start() {
        let pty = nix::pty::openpty(None, None).unwrap();
        const TCGETS: u64 = 0x5401;
        let filtered = std::thread::spawn(move || {
            forbid().unwrap();
            let flags = nix::sched::CloneFlags::CLONE_NEWUSER;
            (
                TYPING.map(|request| ioctl(request, &pty.slave)),
                ioctl(TCGETS, &pty.slave),
                nix::sched::unshare(flags),
                std::thread::spawn(|| 7).join().unwrap(),
            )
        });
        let (typed, harmless, namespace, thread) = filtered.join().unwrap();
        assert_eq!(typed, ["1", "1"], "EPERM");
        assert_eq!(harmless, "");
        assert_eq!(namespace, Err(nix::errno::Errno::EPERM));
        assert_eq!(thread, 7);
    }
}

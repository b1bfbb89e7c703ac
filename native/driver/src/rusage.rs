//! Asks the kernel what a dead child has used, without taking its exit status away.
//!
//! rustix knows waitid(2) as libc has it, without the fifth argument of the system call.

use rustix::process::Pid;
use std::ffi::c_long;
use std::ptr;

/// Number of the system call; none where nobody has looked it up.
const WAITID: Option<c_long> = if cfg!(all(target_arch = "x86_64", target_pointer_width = "64")) {
    Some(247)
} else if cfg!(any(target_arch = "aarch64", target_arch = "riscv64")) {
    Some(95)
} else if cfg!(target_arch = "arm") {
    Some(280)
} else {
    None
};
const P_PID: c_long = 1;
/// WNOHANG, WEXITED and WNOWAIT: only look, and never wait.
const PEEK: c_long = 1 | 4 | 0x0100_0000;
/// `ru_maxrss`, behind two times of two words each.
const MOST_RESIDENT: usize = 4;

// SAFETY: the prototype of libc. The call made through it is described where it is made.
unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

/// The most resident bytes that `child`, which is dead and not reaped, or one of those it has
/// waited for, has had: mapped files included, and what the agent had when it forked.
#[must_use]
pub fn most_resident_bytes(child: Pid) -> Option<u64> {
    // `struct rusage` of the system call: 18 words.
    let mut usage = [0 as c_long; 18];
    let pid = c_long::from(child.as_raw_nonzero().get());
    let no_info: *mut u8 = ptr::null_mut();
    // SAFETY: waitid(idtype, id, infop, options, rusage) writes at most 18 words to `usage`, which
    // has them, and nothing through a null `infop`.
    let done = unsafe { syscall(WAITID?, P_PID, pid, no_info, PEEK, usage.as_mut_ptr()) };
    let kibibytes = u64::try_from(usage[MOST_RESIDENT]).ok().filter(|_| done == 0)?;
    Some(kibibytes.saturating_mul(1024)).filter(|&bytes| bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// A child that is dead is asked twice, and can still be waited for.
    #[test]
    fn a_dead_child_is_asked_and_kept() {
        let mut child = Command::new("/bin/true").spawn().expect("a child");
        let pid = Pid::from_child(&child);
        let ended = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(rustix::process::WaitId::Pid(pid), ended).expect("it ends");
        let most = most_resident_bytes(pid);
        assert_eq!(most.is_some(), WAITID.is_some());
        assert_eq!(most_resident_bytes(pid), most);
        assert!(child.wait().expect("kept").success());
        assert_eq!(most_resident_bytes(pid), None);
    }
}

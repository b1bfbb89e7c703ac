//! Decides which numbers of /proc stand for the memory of a process, and what each costs to read.
//!
//! Knows nothing of attempts or limits. What counts is memory that only swap could take back:
//! anonymous and shared pages, resident or swapped out. Pages of files do not count, and neither
//! does what no process maps: files on a tmpfs, pipes, sockets, page tables.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::process::RawPid;

/// More than any file of the kernel's that is read here; all come at one read.
const TEXT_BYTES: usize = 4096;

/// What is cheap to know, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Resident pages of every kind, and so the most that can count while nothing is swapped out.
    pub resident: u64,
    /// Private and writable, whether touched or not, the stack included.
    pub data: u64,
}

/// What `/proc/PID/status` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Status {
    pub name: String,
    /// One letter, as ps(1) shows it.
    pub state: u8,
    /// Differs from the pid when that is of a thread.
    pub thread_group: RawPid,
    pub parent: RawPid,
    /// Anonymous, shared and swapped out, in bytes. A page that several processes map counts in
    /// each of them.
    pub bytes: u64,
    /// What of it is shared memory.
    pub shmem: u64,
    pub data: u64,
}

/// The file that [`sizes`] reads. Open, it stays with the process it was opened for.
pub(super) fn open_sizes(pid: RawPid) -> Option<File> {
    File::open(format!("/proc/{pid}/statm")).ok()
}

/// A microsecond or two; `None` once the process was reaped, zeroes when it is dead.
pub(super) fn sizes(file: &File) -> Option<Sizes> {
    parse_sizes(&text(file)?, rustix::param::page_size() as u64)
}

/// Some ten microseconds.
pub(super) fn status(pid: RawPid) -> Option<Status> {
    parse_status(&text(&File::open(format!("/proc/{pid}/status")).ok()?)?)
}

/// What counts, with each page divided by the number of those who map it, in bytes. Walks all of
/// the process's pages, which takes about a millisecond for 100 MiB. `None` too where we may not
/// look: a program that nobody may read is not shown to others.
pub(super) fn proportional(pid: RawPid) -> Option<u64> {
    parse_proportional(&text(&File::open(format!("/proc/{pid}/smaps_rollup")).ok()?)?)
}

/// The same in those that come from one another by fork and in no others, as long as they have not
/// executed a program: where their stack begins, which the kernel draws at each exec. `None` where
/// we may not look.
pub(super) fn image(pid: RawPid) -> Option<u64> {
    parse_image(&text(&File::open(format!("/proc/{pid}/stat")).ok()?)?)
}

/// The pid that was given away last in our pid namespace: unchanged, nothing was born.
pub(super) fn newest_pid() -> Option<RawPid> {
    let text = text(&File::open("/proc/loadavg").ok()?)?;
    text.split_ascii_whitespace().nth(4)?.parse().ok()
}

/// Whether anything at all is swapped out; then resident pages are no bound.
pub fn is_swapping() -> bool {
    let info = rustix::system::sysinfo();
    info.freeswap < info.totalswap
}

/// A number that stands alone in a file.
pub fn number(file: &File) -> Option<u64> {
    text(file)?.trim().parse().ok()
}

fn text(file: &File) -> Option<String> {
    let mut bytes = [0; TEXT_BYTES];
    let count = file.read_at(&mut bytes, 0).ok().filter(|&count| count > 0)?;
    Some(String::from_utf8_lossy(&bytes[..count]).into_owned())
}

/// Fields 2 and 6 (proc(5)).
fn parse_sizes(text: &str, page_bytes: u64) -> Option<Sizes> {
    let mut fields = text.split_ascii_whitespace().map(str::parse::<u64>);
    let mut bytes = |skipped| Some(fields.nth(skipped)?.ok()?.saturating_mul(page_bytes));
    Some(Sizes { resident: bytes(1)?, data: bytes(3)? })
}

/// Field 28 (proc(5)), counted from the last parenthesis: a name may hold any.
fn parse_image(text: &str) -> Option<u64> {
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(25)?.parse().ok().filter(|&at| at > 1)
}

fn parse_status(text: &str) -> Option<Status> {
    let field = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
    };
    // A dead process has no sizes.
    let bytes = |name| kibibytes(field(name).unwrap_or("0"));
    Some(Status {
        name: field("Name")?.to_owned(),
        state: *field("State")?.as_bytes().first()?,
        thread_group: field("Tgid")?.parse().ok()?,
        parent: field("PPid")?.parse().ok()?,
        shmem: bytes("RssShmem"),
        bytes: bytes("RssAnon").saturating_add(bytes("RssShmem")).saturating_add(bytes("VmSwap")),
        data: bytes("VmData"),
    })
}

fn parse_proportional(text: &str) -> Option<u64> {
    let mut sum = None;
    for line in text.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        if ["Pss_Anon", "Pss_Shmem", "SwapPss"].contains(&name) {
            sum = Some(kibibytes(value).saturating_add(sum.unwrap_or(0)));
        }
    }
    sum
}

fn kibibytes(value: &str) -> u64 {
    let number = value.split_ascii_whitespace().next().and_then(|number| number.parse().ok());
    number.unwrap_or(0_u64).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read;

    const STATUS: &str = "Name:\ta (b)\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t7\nPid:\t7\n\
        PPid:\t3\nVmData:\t  500 kB\nVmRSS:\t 90 kB\nRssAnon:\t  10 kB\nRssFile:\t 40 kB\n\
        RssShmem:\t  20 kB\nVmSwap:\t  4 kB\n";

    #[test]
    fn what_only_swap_could_take_back_is_summed() {
        let status = parse_status(STATUS).expect("a status");
        assert_eq!((status.bytes, status.shmem, status.data), (34 << 10, 20 << 10, 500 << 10));
        assert_eq!((status.name.as_str(), status.state), ("a (b)", b'S'));
        assert_eq!((status.thread_group, status.parent), (7, 3));
        let sizes = parse_sizes("100 20 3 4 0 50 0\n", 4096).expect("sizes");
        assert_eq!(sizes, Sizes { resident: 20 * 4096, data: 50 * 4096 });
        let rollup = "5-7 ---p 0 00:00 0 [rollup]\nRss: 9 kB\nPss: 8 kB\nPss_Anon:  1 kB\n\
            Pss_File: 6 kB\nPss_Shmem:  2 kB\nSwapPss: 4 kB\n";
        assert_eq!(parse_proportional(rollup), Some(7 << 10));
        assert_eq!(parse_proportional("Rss: 9 kB\n"), None);
    }

    /// The dead keep a name and no memory.
    #[test]
    fn a_zombie_has_nothing() {
        let status = parse_status("Name:\tx\nState:\tZ (zombie)\nTgid:\t7\nPPid:\t3\n");
        assert_eq!(status.map(|status| (status.bytes, status.data)), Some((0, 0)));
    }

    /// Another program has another image; what says nothing of it has none.
    #[test]
    fn an_image_is_told_from_others() {
        let line = "7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 9 1 1 18 1 1 140000 0 0 0\n";
        assert_eq!(parse_image(line), Some(140_000));
        assert_eq!(parse_image("7 (a) S 1 7\n"), None);
        let mut shell = std::process::Command::new("/bin/sh")
            .args(["-c", "echo; read x"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("a shell");
        // Its own from its first instruction on: `spawn` returns while the kernel still loads it.
        let mut line = [0];
        shell.stdout.take().expect("a pipe").read_exact(&mut line).expect("a line");
        let own = image(rustix::process::getpid().as_raw_pid());
        let other = image(i32::try_from(shell.id()).expect("a pid"));
        assert!(own.is_some() && other.is_some() && own != other, "{own:?} {other:?}");
        drop(shell.stdin.take());
        shell.wait().expect("it ends");
    }

    /// What is read of ourselves agrees with what we have just done.
    #[test]
    fn our_own_memory_is_found() {
        let own = rustix::process::getpid().as_raw_pid();
        let before = status(own).expect("ours");
        let kept = vec![1_u8; 32 << 20];
        let after = status(own).expect("ours");
        assert!(after.bytes >= before.bytes + (30 << 20), "{before:?} {after:?}");
        let cheap = sizes(&open_sizes(own).expect("ours")).expect("ours");
        assert!(cheap.resident >= 32 << 20 && cheap.data >= 32 << 20, "{cheap:?}");
        assert!(proportional(own).expect("ours") >= 30 << 20);
        assert!(newest_pid().expect("given to us") > 0);
        drop(kept);
    }

    proptest! {
        /// No text makes a parser panic.
        #[test]
        fn any_text_is_survived(text in "[A-Za-z_0-9: \t\n]{0,200}") {
            parse_sizes(&text, 4096);
            parse_status(&format!("{STATUS}{text}"));
            parse_proportional(&text);
            parse_image(&text);
        }
    }
}

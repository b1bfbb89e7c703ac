//! Decides which ids a user's name stands for, from `/etc/passwd` and `/etc/group` alone.
//!
//! Knows nothing of name services: they would need a libc that loads plugins into the agent.

use std::fs::File;
use std::io::{self, Read};

use rustix::fs::{Gid, Uid};

/// Largest account file that is read.
const FILE_BYTES: u64 = 1024 * 1024;
/// Most supplementary groups of a user.
const GROUPS_MAX: usize = 256;

/// Ids to run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub uid: Uid,
    pub gid: Gid,
    /// All of its groups, the primary one first, as `initgroups` sets them.
    pub groups: Vec<Gid>,
}

impl Account {
    /// The account of `user`, a login name or a uid in digits. A uid that no name has gets the
    /// group of the same number and no other.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or there is no such user.
    pub fn of(user: &str) -> io::Result<Account> {
        let (passwd, group) = (read_file("/etc/passwd")?, read_file("/etc/group")?);
        find(user, &passwd, &group)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no such user"))
    }
}

/// Lines that are not understood are skipped, as libc does.
fn find(user: &str, passwd: &str, group: &str) -> Option<Account> {
    let digits = user.bytes().all(|byte| byte.is_ascii_digit());
    let number = user.parse().ok().filter(|_| digits);
    let entries = || passwd.lines().filter_map(parse_user);
    let entry = entries()
        .find(|&(name, ..)| name == user)
        .or_else(|| entries().find(|&(_, uid, _)| Some(uid) == number))
        .or_else(|| Some(("", number?, number?)));
    let (name, uid, gid) = entry?;
    // The kernel takes this one for "leave it as it is", which would be the agent's own.
    if uid == u32::MAX || gid == u32::MAX {
        return None;
    }
    let others = group.lines().filter_map(parse_group).filter(|&(other, members)| {
        other != gid && !name.is_empty() && members.split(',').any(|member| member == name)
    });
    let groups = std::iter::once(gid).chain(others.map(|(other, _)| other));
    let groups = groups.take(GROUPS_MAX).map(Gid::from_raw).collect();
    Some(Account { uid: Uid::from_raw(uid), gid: Gid::from_raw(gid), groups })
}

/// `name:password:uid:gid:...`
fn parse_user(line: &str) -> Option<(&str, u32, u32)> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    Some((name, fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// `name:password:gid:member,member`
fn parse_group(line: &str) -> Option<(u32, &str)> {
    let mut fields = line.split(':');
    let gid = fields.nth(2)?.parse().ok()?;
    Some((gid, fields.next()?))
}

fn read_file(path: &str) -> io::Result<String> {
    let mut text = Vec::new();
    File::open(path)?.take(FILE_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{path} is above 1 MiB")));
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\n\nbroken:x:one\nana:x:7:70::/:/bin/sh\n\
                          42:x:8:80::/:\nlast:x:4294967295:1::/:\n";
    const GROUP: &str = "root:x:0:\nana:x:70:ana\nwheel:x:10:bob,ana\nbad:x:no:ana\nx:x:11:an\n";

    fn ids(user: &str) -> Option<(u32, Vec<u32>)> {
        find(user, PASSWD, GROUP).map(|account| {
            assert_eq!(account.groups[0], account.gid);
            (account.uid.as_raw(), account.groups.iter().map(|gid| gid.as_raw()).collect())
        })
    }

    /// A name gets its uid and all of its groups once; a name of digits is a name before it is a
    /// number; a number without a name gets its own group only.
    #[test]
    fn users_are_found_by_name_then_by_number() {
        assert_eq!(ids("ana"), Some((7, vec![70, 10])));
        assert_eq!(ids("7"), Some((7, vec![70, 10])));
        assert_eq!(ids("42"), Some((8, vec![80])));
        assert_eq!(ids("1234"), Some((1234, vec![1234])));
    }

    /// Nobody else is taken instead of an unknown user, and no number means "as you are".
    #[test]
    fn unknown_users_are_nobody() {
        for user in ["an", "", "broken", "bob", "-1", "+7", "4294967295", "last", "4294967296"] {
            assert_eq!(ids(user), None, "{user}");
        }
    }
}

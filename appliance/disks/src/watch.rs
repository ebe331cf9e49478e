//! Says how the disks are, whenever that changes: the kernel wakes whoever waits at /proc/mdstat.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use postkeep_disks::status::{Mirror, Status};
use postkeep_journal::{MIRROR_DEGRADED, MIRROR_WHOLE};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{Failure, say};

/// Looked at without being woken: how far the filling is, and disks that nobody reads from.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// The kernel's list of arrays.
const LONGEST_LIST: u64 = 64 * 1024;

/// Tells now, and at each change; never ends by itself.
pub(crate) fn watch(file: &Path) -> Result<(), Failure> {
    let mut told: Option<Status> = None;
    loop {
        // Read to its end before the look, so that what changes after it wakes us.
        let list = File::open("/proc/mdstat");
        if let Ok(list) = &list {
            let mut octets = Vec::new();
            list.take(LONGEST_LIST).read_to_end(&mut octets)?;
        }
        let status = Status::read(Path::new("/"))?;
        if told.as_ref() != Some(&status) {
            postkeep_files::replace(file, &serde_json::to_vec(&status)?)?;
            readable(file)?;
            tell(told.as_ref(), &status);
            told = Some(status);
        }
        let mut waiting: Vec<PollFd<'_>> = list.iter().map(|list| PollFd::new(list, PollFlags::PRI)).collect();
        let timeout = Timespec { tv_sec: i64::try_from(LOOK_AGAIN.as_secs()).unwrap_or(10), tv_nsec: 0 };
        match poll(&mut waiting, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Everybody may know it: the console shows it.
fn readable(file: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644))?;
    Ok(())
}

/// What has become worse or better since it was told last; hundredths alone are not worth a line.
fn tell(before: Option<&Status>, now: &Status) {
    let rank = |status: &Status| match status.mirror {
        None | Some(Mirror::Whole) => 0,
        Some(Mirror::OneStarts) => 4,
        Some(Mirror::Rebuilding { .. }) => 1,
        Some(Mirror::Degraded) => 2,
        Some(Mirror::Absent) => 3,
    };
    if now.mirror.is_none() || before.map(rank) == Some(rank(now)) {
        return;
    }
    let left: Vec<&str> = now.disks.iter().filter(|disk| disk.data).map(|disk| &*disk.name).collect();
    let sentence = format!("disks: {now}");
    say(&sentence);
    match now.mirror {
        Some(Mirror::Whole) => MIRROR_WHOLE.tell(format_args!("{sentence}"), [&left.join(" ")]),
        Some(Mirror::Degraded) => MIRROR_DEGRADED.tell(format_args!("{sentence}"), [&left.join(" ")]),
        _ => {}
    }
}

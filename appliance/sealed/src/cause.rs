//! Why a box is sealed: what it has left on the boot partition before it went. Anybody who has the disk can change that, so it is a word
//! for people, and decides nothing.

use std::io;
use std::path::Path;

use postkeep_keys::Cause;

/// On the boot partition.
pub const FILE: &str = "postkeep/last";
const LONGEST: u64 = 64;

/// What the box was doing when it was heard of last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// Its volume was open.
    Open,
    /// Its volume was closed in order.
    Closed,
}

impl Last {
    fn text(self) -> &'static str {
        match self {
            Self::Open => "open\n",
            Self::Closed => "closed\n",
        }
    }
}

/// Leaves a word for the next start. Durable on return.
///
/// # Errors
/// The boot partition.
pub fn leave(boot: &Path, last: Last) -> io::Result<()> {
    postkeep_files::replace(&boot.join(FILE), last.text().as_bytes())
}

/// Why this start finds its volume sealed.
#[must_use]
pub fn cause(boot: &Path) -> Cause {
    match postkeep_files::beginning(&boot.join(FILE), LONGEST) {
        Ok(text) if text == Last::Open.text().as_bytes() => Cause::Unclean,
        Ok(text) if text == Last::Closed.text().as_bytes() => Cause::Planned,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Cause::FirstStart,
        _ => Cause::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_says_why() {
        let boot = tempfile::tempdir().unwrap();
        assert_eq!(cause(boot.path()), Cause::FirstStart);
        std::fs::create_dir(boot.path().join("postkeep")).unwrap();
        for (last, said) in [(Last::Open, Cause::Unclean), (Last::Closed, Cause::Planned)] {
            leave(boot.path(), last).unwrap();
            assert_eq!(cause(boot.path()), said);
        }
        for strange in [&b""[..], b"open", b"open\nmore", &[0xff; 4096]] {
            std::fs::write(boot.path().join(FILE), strange).unwrap();
            assert_eq!(cause(boot.path()), Cause::Unknown);
        }
    }
}

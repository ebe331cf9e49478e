//! Looks at the machine, with no rights: systemd and networkd over D-Bus, three files, and the journal.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::Sender;

use crate::bus::Bus;
use crate::facts::{self, Facts, Volume};
use crate::model::{Event, LOG};

const VOLUME: &str = "var-lib-postkeep.mount";
const MAIL: &str = "postkeepd.service";
/// The unit that seals; without it nothing is offered that does.
pub(crate) const SEAL: &str = "postkeep-seal.target";
/// Octets of a small file.
const LARGEST: u64 = 64 * 1024;
/// Octets of a line of the journal; longer ones are left out.
const LONGEST_LINE: u64 = 64 * 1024;

/// Where to look.
#[derive(Debug, Clone)]
pub struct Places {
    /// The posture, written by whoever measures it.
    pub posture: PathBuf,
    /// `os-release`.
    pub release: PathBuf,
}

/// Looks once. What cannot be read is named among the problems, and the rest is told all the same.
pub async fn look(places: &Places) -> Facts {
    let mut facts = Facts {
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        version: version(&places.release),
        clock: Timestamp::now().strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        mail: "not known".to_owned(),
        ..Facts::default()
    };
    match small_file(&places.posture) {
        Ok(None) => {}
        Ok(Some(octets)) => match facts::posture(&octets) {
            Ok(posture) => facts.posture = Some(posture),
            Err(why) => facts.problems.push(why),
        },
        Err(why) => facts.problems.push(why),
    }
    match tokio::time::timeout(Duration::from_secs(5), ask_the_system(&mut facts)).await {
        Ok(Ok(())) => {}
        Ok(Err(why)) => facts.problems.push(why),
        Err(_) => facts.problems.push("the system's D-Bus does not answer in time".to_owned()),
    }
    facts
}

async fn ask_the_system(facts: &mut Facts) -> Result<(), String> {
    let bus = Bus::system().await?;
    for unit in bus.units(&[VOLUME, MAIL, SEAL]).await? {
        match unit.name.as_str() {
            VOLUME if unit.active == "active" => facts.volume = Volume::Open,
            VOLUME => facts.volume = Volume::Sealed,
            MAIL if unit.loaded == "not-found" => facts.mail = "postkeepd is not there".to_owned(),
            MAIL => {
                let said = bus.status_text(&unit).await.unwrap_or_default();
                facts.mail = match (unit.active.as_str(), said.is_empty()) {
                    ("active", true) => "running".to_owned(),
                    ("active", false) => format!("running: {said}"),
                    (state, _) => state.to_owned(),
                };
            }
            SEAL => facts.can_seal = unit.loaded == "loaded",
            _ => {}
        }
    }
    facts.failed = Some(bus.failed().await?);
    facts.links = facts::links(&bus.describe_network().await?)?;
    Ok(())
}

fn version(release: &Path) -> String {
    let octets = small_file(release).ok().flatten().unwrap_or_default();
    let text = String::from_utf8_lossy(&octets);
    let told = text.lines().find_map(|line| line.strip_prefix("IMAGE_VERSION="));
    told.map_or(env!("CARGO_PKG_VERSION").to_owned(), |told| told.trim_matches('"').to_owned())
}

/// A file that may be missing.
pub(crate) fn small_file(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let mut octets = Vec::new();
    match File::open(path).and_then(|file| file.take(LARGEST * 8).read_to_end(&mut octets)) {
        Ok(_) => Ok(Some(octets)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}

/// Sends the lines of the journal as they come, for ever. A journal that ends is opened again.
pub(crate) async fn follow_journal(events: Sender<Event>) {
    while !events.is_closed() {
        if let Ok(mut child) = journalctl(true)
            && let Some(output) = child.stdout.take()
        {
            let mut output = BufReader::new(output);
            while let Ok(Some(line)) = next_line(&mut output).await {
                if let Some(line) = facts::log_line(&line)
                    && events.send(Event::Log(line)).await.is_err()
                {
                    return;
                }
            }
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

/// The last lines of the journal.
pub(crate) async fn last_lines() -> Vec<String> {
    let mut lines = Vec::new();
    if let Ok(mut child) = journalctl(false)
        && let Some(output) = child.stdout.take()
    {
        let mut output = BufReader::new(output);
        while let Ok(Some(line)) = next_line(&mut output).await {
            lines.extend(facts::log_line(&line));
        }
        // It has said all that it will; how it ended changes nothing.
        let _ = child.wait().await;
    }
    lines
}

fn journalctl(follow: bool) -> std::io::Result<Child> {
    let mut command = Command::new("journalctl");
    command.args(["--quiet", "--no-pager", "--output=json", "--priority=info"]).arg(format!("--lines={LOG}"));
    if follow {
        command.arg("--follow");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn()
}

/// The next line that is not too long.
async fn next_line(from: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Option<String>> {
    let mut too_long = false;
    loop {
        let mut octets = Vec::new();
        if (&mut *from).take(LONGEST_LINE).read_until(b'\n', &mut octets).await? == 0 {
            return Ok(None);
        }
        let whole = octets.last() == Some(&b'\n');
        if whole && !too_long {
            return Ok(Some(String::from_utf8_lossy(&octets).into_owned()));
        }
        too_long = !whole;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_without_end_is_left_out_and_the_next_one_is_read() {
        let mut text = vec![b'x'; 200_000];
        text.extend_from_slice(b"\n{}\nlast");
        let mut from = BufReader::new(&text[..]);
        assert_eq!(next_line(&mut from).await.unwrap().as_deref(), Some("{}\n"));
        assert_eq!(next_line(&mut from).await.unwrap(), None);
    }

    #[test]
    fn the_version_is_the_images_where_there_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("os-release");
        assert_eq!(version(&path), env!("CARGO_PKG_VERSION"));
        std::fs::write(&path, "ID=postkeep\nIMAGE_VERSION=\"2026.11.1\"\n").unwrap();
        assert_eq!(version(&path), "2026.11.1");
    }
}

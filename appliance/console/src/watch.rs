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
use tokio::sync::oneshot::Receiver;

use crate::bus::Bus;
use crate::custody;
use crate::facts::{self, Facts, Volume};
use crate::model::{Event, LOG};

const VOLUME: &str = "var-lib-postkeep.mount";
/// As long as the kernel has this device, it has the key.
const OPENED: &str = r"dev-mapper-postkeep\x2ddata.device";
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
    /// The worst posture of all starts, written by whoever keeps it.
    pub history: PathBuf,
    /// The fingerprint of the box at its door for management.
    pub box_fingerprint: PathBuf,
    /// How the disks are, written by whoever watches over them.
    pub disks: PathBuf,
    /// The opener, on a box that custodians open.
    pub opener: PathBuf,
    /// The sum of the certificate of the door of the seal.
    pub door: PathBuf,
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
    let problems = &mut facts.problems;
    facts.posture = told(&places.posture, facts::posture, problems);
    facts.worst = told(&places.history, facts::worst, problems).flatten();
    facts.disks = told(&places.disks, facts::disks, problems).flatten();
    let sum = |octets: &[u8]| Ok(String::from_utf8_lossy(octets).trim().to_owned());
    facts.api = told(&places.box_fingerprint, sum, problems);
    let door = told(&places.door, sum, problems);
    match custody::look(&places.opener, door).await {
        Ok(custody) => facts.custody = custody,
        Err(why) => problems.push(why),
    }
    match tokio::time::timeout(Duration::from_secs(5), async {
        ask_the_system(&Bus::system().await?, &mut facts).await
    })
    .await
    {
        Ok(Ok(())) => {}
        Ok(Err(why)) => facts.problems.push(why),
        Err(_) => facts.problems.push("the system's D-Bus does not answer in time".to_owned()),
    }
    facts
}

/// What a file says, where it is there; that it cannot be understood is a problem.
fn told<T>(path: &Path, read: impl Fn(&[u8]) -> Result<T, String>, problems: &mut Vec<String>) -> Option<T> {
    match small_file(path).and_then(|octets| octets.map(|octets| read(&octets)).transpose()) {
        Ok(told) => told,
        Err(why) => {
            problems.push(why);
            None
        }
    }
}

async fn ask_the_system(bus: &Bus, facts: &mut Facts) -> Result<(), String> {
    let (mut mounted, mut opened) = (false, false);
    for unit in bus.units(&[VOLUME, OPENED, MAIL, SEAL]).await? {
        match unit.name.as_str() {
            VOLUME => mounted = unit.active == "active",
            OPENED => opened = unit.active == "active",
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
    facts.volume = match (mounted, opened) {
        (true, _) => Volume::Open,
        (false, true) => Volume::Unmounted,
        (false, false) => Volume::Sealed,
    };
    facts.failed = Some(bus.failed().await?);
    facts.links = facts::links(&bus.describe_network().await?)?;
    facts.synchronized = Some(bus.is_time_synchronized().await?);
    facts.hostname = bus.hostname().await?;
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

/// Sends the lines of the journal as they come, until `leave` comes or its other end is gone. A journal that ends is opened again. On return
/// no program of ours runs any more.
pub(crate) async fn follow_journal(events: Sender<Event>, mut leave: Receiver<()>) {
    loop {
        if let Ok(mut child) = journalctl(true) {
            let is_told_to_leave = tokio::select! {
                () = hand_on(&mut child, &events) => false,
                _ = &mut leave => true,
            };
            let _ = child.kill().await;
            if is_told_to_leave || events.is_closed() {
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
            _ = &mut leave => return,
        }
    }
}

async fn hand_on(child: &mut Child, events: &Sender<Event>) {
    let Some(output) = child.stdout.take() else { return };
    let mut output = BufReader::new(output);
    while let Ok(Some(line)) = next_line(&mut output).await {
        if let Some(line) = facts::log_line(&line)
            && events.send(Event::Log(line)).await.is_err()
        {
            return;
        }
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
    use zbus::OwnedObjectPath;

    use super::*;

    type Listed = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

    fn listed(name: &str, loaded: &str, active: &str) -> Listed {
        let path = |path: &str| OwnedObjectPath::try_from(path).unwrap();
        let text = str::to_owned;
        let (unit, none) = (path("/org/freedesktop/systemd1/unit/a"), path("/"));
        (text(name), text(""), text(loaded), text(active), text(""), text(""), unit, 0, text(""), none)
    }

    struct FakeManager {
        mounted: bool,
    }

    #[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
    impl FakeManager {
        fn list_units_by_names(&self, names: Vec<String>) -> Vec<Listed> {
            assert_eq!(names, [VOLUME, OPENED, MAIL, SEAL]);
            vec![
                listed(VOLUME, "loaded", if self.mounted { "active" } else { "inactive" }),
                listed(OPENED, "loaded", "active"),
                listed(MAIL, "loaded", "active"),
                listed(SEAL, "not-found", "inactive"),
            ]
        }

        fn list_units_filtered(&self, states: Vec<String>) -> Vec<Listed> {
            assert_eq!(states, ["failed"]);
            vec![listed("chrony.service", "loaded", "failed")]
        }
    }

    struct FakeService;

    #[zbus::interface(name = "org.freedesktop.systemd1.Service")]
    impl FakeService {
        #[zbus(property)]
        fn status_text(&self) -> String {
            "12 recipients wait".to_owned()
        }
    }

    struct FakeNetworks;

    #[zbus::interface(name = "org.freedesktop.network1.Manager")]
    impl FakeNetworks {
        fn describe(&self) -> String {
            r#"{"Interfaces":[{"Name":"eno1","Type":"ether","OperationalState":"routable"}]}"#.to_owned()
        }
    }

    struct FakeTime;

    #[zbus::interface(name = "org.freedesktop.timedate1")]
    impl FakeTime {
        #[zbus(property, name = "NTPSynchronized")]
        fn synchronized(&self) -> bool {
            true
        }
    }

    struct FakeHostname;

    #[zbus::interface(name = "org.freedesktop.hostname1")]
    impl FakeHostname {
        #[zbus(property)]
        fn hostname(&self) -> String {
            "mail-1.example.com".to_owned()
        }
    }

    async fn asked(mounted: bool) -> Facts {
        let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
        let server = zbus::connection::Builder::unix_stream(there)
            .server(zbus::Guid::generate())
            .p2p()
            .serve_at("/org/freedesktop/systemd1", FakeManager { mounted })
            .serve_at("/org/freedesktop/systemd1/unit/a", FakeService)
            .serve_at("/org/freedesktop/network1", FakeNetworks)
            .serve_at("/org/freedesktop/timedate1", FakeTime)
            .serve_at("/org/freedesktop/hostname1", FakeHostname)
            .build();
        let client = zbus::connection::Builder::unix_stream(here).p2p().build();
        let (_server, client) = tokio::try_join!(server, client).unwrap();
        let mut facts = Facts::default();
        ask_the_system(&Bus::over(client), &mut facts).await.unwrap();
        facts
    }

    #[tokio::test]
    async fn systemd_and_networkd_are_understood() {
        let facts = asked(true).await;
        assert_eq!((facts.volume, facts.can_seal), (Volume::Open, false));
        assert_eq!(facts.mail, "running: 12 recipients wait");
        assert_eq!(facts.failed, Some(vec!["chrony.service".to_owned()]));
        assert_eq!(facts.links[0].name, "eno1");
        assert_eq!((facts.synchronized, &*facts.hostname), (Some(true), "mail-1.example.com"));
    }

    #[tokio::test]
    async fn a_volume_whose_key_the_kernel_still_has_is_not_called_sealed() {
        assert_eq!(asked(false).await.volume, Volume::Unmounted);
    }

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

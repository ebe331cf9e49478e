//! What the box tells about itself: its release, how long it is up, what its start is worth, and what is in it.

use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use axum::Json;
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use postkeep_disks::status::Status;
use postkeep_firmware::posture::{History, Posture};
use postkeep_mta::clock;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::api::Problem;
use crate::server::{Refusal, Shared};

/// Octets of a small file.
const SMALL: u64 = 1 << 20;
/// Octets of a bill of materials.
const LARGEST_BILL: u64 = 64 << 20;

/// Where things are, below a root.
#[derive(Debug, Clone)]
pub struct Places {
    root: PathBuf,
}

impl Places {
    /// As on a box whose `/` is `root`.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
}

/// What the box is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct System {
    /// What the machine is called.
    pub hostname: String,
    /// Version of the mail core.
    pub version: String,
    /// Version of the image; absent: this is no box of ours.
    pub image: Option<String>,
    /// Release of the running kernel.
    pub kernel: String,
    /// When the machine was started, RFC 3339.
    pub booted: String,
    /// How long it runs.
    pub uptime_seconds: u64,
    /// What this start is worth, in the form that `docs/operate/secure-boot.md` has; absent: it was not measured.
    pub posture: Option<Posture>,
    /// The worst of all starts so far, `since` in seconds since 1970; absent: nobody keeps it.
    pub history: Option<History>,
    /// How the disks are; absent: nobody watches over them.
    pub disks: Option<Status>,
    /// What DNS must say so that others can verify what the mail core signs.
    #[serde(default)]
    pub publish: Vec<TextRecord>,
    /// Forms in which there is a bill of materials.
    pub sbom: Vec<BillFormat>,
    /// What could not be read, and why. Nothing is better than unknown because of it.
    pub unknown: Vec<String>,
}

/// A TXT record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TextRecord {
    /// Its name, without a dot at the end.
    pub name: String,
    /// Its text as a whole: a zone file splits it into strings of 255 octets at most.
    pub text: String,
}

/// Form of a bill of materials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BillFormat {
    /// CycloneDX.
    CycloneDx,
    /// SPDX.
    Spdx,
}

impl BillFormat {
    /// Both.
    pub const ALL: [Self; 2] = [Self::CycloneDx, Self::Spdx];

    /// As it is written in names.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CycloneDx => "cyclonedx",
            Self::Spdx => "spdx",
        }
    }

    /// Whether a file of that name holds it.
    fn is_named(self, name: &str) -> bool {
        name.ends_with(".json") && name.to_ascii_lowercase().contains(self.as_str())
    }
}

pub(crate) async fn show(State(shared): State<Shared>) -> Result<Json<System>, Refusal> {
    let places = shared.places.clone();
    let records = shared.engine.dkim_records().into_iter().map(|(name, text)| TextRecord { name, text }).collect();
    blocking(move || Ok(System { publish: records, ..look(&places) })).await.map(Json)
}

#[derive(Debug, Deserialize)]
pub(crate) struct Wanted {
    format: BillFormat,
}

pub(crate) async fn bill(State(shared): State<Shared>, Query(wanted): Query<Wanted>) -> Result<Response, Refusal> {
    let places = shared.places.clone();
    let octets = blocking(move || bill_of(&places, wanted.format)).await?;
    Ok(([(CONTENT_TYPE, "application/json")], octets).into_response())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Problem> + Send + 'static) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(Refusal),
        Err(error) => Err(Refusal(problem(500, error.to_string()))),
    }
}

fn problem(status: u16, detail: String) -> Problem {
    let title = if status == 404 { "not here" } else { "cannot be read" };
    Problem { title: title.to_owned(), status, detail }
}

fn look(places: &Places) -> System {
    let mut unknown = Vec::new();
    let (name, information) = (rustix::system::uname(), rustix::system::sysinfo());
    let uptime_seconds = u64::try_from(information.uptime).unwrap_or(0);
    let booted = clock::now().saturating_sub(uptime_seconds * 1_000_000);
    let posture = json(&places.root.join("run/postkeep-posture/posture.json"), "posture of this start", &mut unknown);
    let history = json(&places.root.join("run/postkeep-posture/history.json"), "history of this box", &mut unknown);
    let disks = json(&places.root.join(postkeep_disks::status::FILE), "state of the disks", &mut unknown);
    System {
        hostname: name.nodename().to_string_lossy().into_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        image: image(&places.root.join("etc/os-release")),
        kernel: name.release().to_string_lossy().into_owned(),
        booted: clock::timestamp(booted).to_string(),
        uptime_seconds,
        posture,
        history,
        disks,
        publish: Vec::new(),
        sbom: BillFormat::ALL.into_iter().filter(|format| bill_file(places, *format).is_some()).collect(),
        unknown,
    }
}

fn image(release: &Path) -> Option<String> {
    let octets = bounded(release, SMALL).ok()?;
    let text = String::from_utf8_lossy(&octets);
    postkeep_update::place::image_version(&text).map(str::to_owned)
}

fn json<T: DeserializeOwned>(path: &Path, what: &str, unknown: &mut Vec<String>) -> Option<T> {
    let read = bounded(path, SMALL).map_err(|error| match error.kind() {
        ErrorKind::NotFound => "nobody has written it".to_owned(),
        _ => error.to_string(),
    });
    match read.and_then(|octets| serde_json::from_slice(&octets).map_err(|error| error.to_string())) {
        Ok(value) => Some(value),
        Err(why) => {
            unknown.push(format!("the {what} is not known: {}: {why}", path.display()));
            None
        }
    }
}

/// The first file, by its name, that holds the bill in that form.
fn bill_file(places: &Places, format: BillFormat) -> Option<PathBuf> {
    let entries = places.root.join("usr/share/postkeep/sbom").read_dir().ok()?;
    let mut names: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    names.retain(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| format.is_named(name)));
    names.sort();
    names.into_iter().next()
}

fn bill_of(places: &Places, format: BillFormat) -> Result<Vec<u8>, Problem> {
    let file = bill_file(places, format).ok_or_else(|| {
        problem(404, format!("this release carries no bill of materials in the form {}", format.as_str()))
    })?;
    bounded(&file, LARGEST_BILL).map_err(|error| problem(500, format!("{}: {error}", file.display())))
}

fn bounded(path: &Path, most: u64) -> std::io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    std::fs::File::open(path)?.take(most + 1).read_to_end(&mut octets)?;
    if octets.len() as u64 > most {
        return Err(std::io::Error::new(ErrorKind::FileTooLarge, format!("it has more than {most} octets")));
    }
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use postkeep_firmware::posture::Grade;

    use super::*;

    fn lay(root: &Path, path: &str, text: &str) {
        let file = root.join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }

    #[test]
    fn what_the_box_has_written_about_its_start_is_told_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        lay(folder.path(), "etc/os-release", "ID=postkeep\nIMAGE_VERSION=\"2026.11.1\"\n");
        let sentence = r#"{"at_best":"C","seen":"There is no TPM 2.0.","means":"So."}"#;
        lay(
            folder.path(),
            "run/postkeep-posture/posture.json",
            &format!(r#"{{"grade":"C","sentences":[{sentence}]}}"#),
        );
        let worst = format!(r#"{{"worst":{{"grade":"D","since":7,"sentences":[{sentence}]}}}}"#);
        lay(folder.path(), "run/postkeep-posture/history.json", &worst);
        lay(folder.path(), postkeep_disks::status::FILE, r#"{"disks":[],"mirror":{"state":"whole"}}"#);
        lay(folder.path(), "usr/share/postkeep/sbom/postkeep.cyclonedx.json", "{\"bomFormat\":\"CycloneDX\"}");
        lay(folder.path(), "usr/share/postkeep/sbom/spdx.txt", "no");
        let places = Places::below(folder.path());
        let system = look(&places);
        assert_eq!(system.image.as_deref(), Some("2026.11.1"));
        assert_eq!(system.posture.unwrap().grade, Grade::C);
        assert_eq!(system.history.unwrap().worst.unwrap().grade, Grade::D);
        assert_eq!(system.disks.unwrap().mirror, Some(postkeep_disks::status::Mirror::Whole));
        assert_eq!((system.sbom, system.unknown), (vec![BillFormat::CycloneDx], Vec::new()));
        assert_eq!(bill_of(&places, BillFormat::CycloneDx).unwrap(), b"{\"bomFormat\":\"CycloneDX\"}");
        let missing = bill_of(&places, BillFormat::Spdx).unwrap_err();
        assert!(
            missing.status == 404 && missing.detail.contains("no bill of materials in the form spdx"),
            "{missing:?}"
        );
    }

    #[test]
    fn what_cannot_be_read_is_named_and_nothing_is_made_up_for_it() {
        let folder = tempfile::tempdir().unwrap();
        lay(folder.path(), "run/postkeep-posture/posture.json", "{\"grade\":\"A\"");
        let system = look(&Places::below(folder.path()));
        assert_eq!((system.posture, system.history, system.image), (None, None, None));
        assert_eq!((system.disks, system.unknown.len()), (None, 3));
        assert!(
            system.unknown[0].contains("posture of this start") && system.unknown[1].contains("nobody has written")
        );
    }
}

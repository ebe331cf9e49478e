//! The updater as its clients see it, with a folder for a box, and scripts in the place of systemd's programs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use http_body_util::Full;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use postkeep_notes::{SignerKey, sign};
use postkeep_release::Role;
use serde_json::{Value, json};

use super::*;
use crate::boot_file::Standing;
use crate::place::tests::lay;
use crate::plan::tests::release;
use crate::transfer::PARTS;

/// The partitions of the slot that does not run.
const SECOND_SLOT: std::ops::Range<u32> = 5..8;
/// What systemd-sysupdate does for 1.1.0: the labels, and the boot file.
const WRITES: &str = "sed -i 's/=[^=]*empty$/=postkeep\\x5f1.1.0/; s/0.9.0/1.1.0/' BOOT/../../../run/udev/data/b254:[567]; \
                      touch BOOT/postkeep_1.1.0+3-0.efi";
const CONTENT: &[u8] = b"what a part of a release holds";

struct Here {
    folder: tempfile::TempDir,
    key: SignerKey,
    socket: PathBuf,
}

impl Here {
    /// A box that runs 1.0.0; `sysupdate` is the body of a script that is started in the place of systemd-sysupdate.
    fn new(sysupdate: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let key = SignerKey::generate("release.example").unwrap();
        lay(root, "1.0.0", key.verifier());
        let script = |name: &str, body: &str| {
            let path = root.join(name);
            fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let boot = root.join("efi/EFI/Linux");
        let programs = Programs {
            sysupdate: script("sysupdate", &sysupdate.replace("BOOT", boot.to_str().unwrap())),
            udevadm: "true".into(),
            systemctl: script("systemctl", &format!("echo \"$@\" >>{}", root.join("asked").display())),
            definitions: root.join("run/definitions"),
        };
        // As if systemd-sysupdate had written the second slot.
        for number in SECOND_SLOT {
            fs::create_dir_all(root.join("dev")).unwrap();
            fs::write(root.join(format!("dev/vda{number}")), [CONTENT, &[0; 10]].concat()).unwrap();
        }
        let kept = root.join(crate::store::FOLDER);
        fs::create_dir_all(&kept).unwrap();
        let socket = root.join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(Updater::new(Place::new(root), programs, Store::new(&kept)).serve(listener));
        Self { folder, key, socket }
    }

    async fn ask(&self, method: Method, path: &str, body: Vec<u8>) -> (u16, Value) {
        let stream = tokio::net::UnixStream::connect(&self.socket).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "updater")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.ask(Method::POST, path, body.to_string().into_bytes()).await
    }

    fn note(&self, version: &str) -> Value {
        let parts = PARTS.map(|role| (role, CONTENT));
        let text = release(version.parse().unwrap(), &parts).to_toml().unwrap();
        json!({ "release": sign(&text, &[&self.key]).unwrap() })
    }

    /// Waits until the updater is no longer at work.
    async fn settled(&self) -> Status {
        loop {
            let (_, status) = self.ask(Method::GET, "/v1/update", Vec::new()).await;
            let status: Status = serde_json::from_value(status).unwrap();
            if !matches!(status.activity, Activity::Installing { .. }) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn stage_all(&self, version: &str) {
        let (code, plan) = self.post("/v1/update/stage", &self.note(version)).await;
        assert_eq!(code, 200, "{plan}");
        for file in plan["files"].as_array().unwrap() {
            let path = format!("/v1/update/files/{}", file["name"].as_str().unwrap());
            let (code, answer) = self.ask(Method::PUT, &path, CONTENT.to_vec()).await;
            assert_eq!(code, 204, "{answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_planned_staged_and_installed_and_is_on_trial_then() {
    let here = Here::new(&format!("{WRITES}; cat ${{1#--definitions=}}/*.transfer >BOOT/../../../told"));
    let (code, plan) = here.post("/v1/update/plan", &here.note("1.1.0")).await;
    assert_eq!((code, &plan["version"]), (200, &json!("1.1.0")), "{plan}");
    assert_eq!(plan["signed-by"], json!(["release.example"]));
    // Nothing is there yet.
    let (code, answer) = here.post("/v1/update/apply", &json!({ "version": "1.1.0" })).await;
    assert_eq!(code, 409, "{answer}");
    here.stage_all("1.1.0").await;
    let (code, answer) = here.post("/v1/update/apply", &json!({ "version": "1.1.0" })).await;
    assert_eq!(code, 202, "{answer}");
    let status = here.settled().await;
    assert_eq!(status.activity, Activity::Installed { version: Version::new(1, 1, 0) });
    assert_eq!(status.versions[1].standing, Standing::OnTrial { left: 3, done: 0 });
    assert_eq!(status.attempt.unwrap().stage, Stage::Written);
    let told = fs::read_to_string(here.folder.path().join("told")).unwrap();
    for word in ["ProtectVersion=1.0.0", "MatchPartitionType=root-verity-sig", "TriesLeft=3", "dev/vda\n"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    let asked = fs::read_to_string(here.folder.path().join("asked")).unwrap();
    assert_eq!(asked, "start postkeep-boot-copy.service\n", "no restart was asked for");
}

/// The other slot holds 0.9.0, which has proved itself once.
fn lay_way_back(root: &std::path::Path) {
    for number in SECOND_SLOT {
        let path = root.join(format!("run/udev/data/b254:{number}"));
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, text.replace("\\x5fempty", "postkeep\\x5f0.9.0")).unwrap();
    }
    fs::write(root.join("efi/EFI/Linux/postkeep_0.9.0.efi"), "boot file").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_that_fails_leaves_the_way_back_as_long_as_its_slot_is_whole() {
    // systemd-sysupdate first takes the label away from what it is about to overwrite.
    let begins_to_write = "sed -i s/0.9.0/gone/ BOOT/../../../run/udev/data/b254:5; exit 3";
    for (sysupdate, is_whole) in [("exit 3", true), (begins_to_write, false)] {
        let here = Here::new(sysupdate);
        lay_way_back(here.folder.path());
        here.stage_all("1.1.0").await;
        let (code, answer) = here.post("/v1/update/apply", &json!({ "version": "1.1.0" })).await;
        assert_eq!(code, 202, "{answer}");
        let status = here.settled().await;
        assert!(matches!(status.activity, Activity::Failed { .. }), "{:?}", status.activity);
        let standing = status.versions.iter().find(|one| one.version == Version::new(0, 9, 0)).unwrap().standing;
        assert_eq!(standing, if is_whole { Standing::Good } else { Standing::Bad }, "{sysupdate}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_disk_has_damaged_under_the_label_of_the_release_is_written_again() {
    let here = Here::new(WRITES);
    let root = here.folder.path();
    let damaged = root.join("dev/vda5");
    fs::write(&damaged, [0; 40]).unwrap();
    let boot_file = root.join("efi/EFI/Linux/postkeep_1.1.0+0-3.efi");
    fs::write(&boot_file, "a boot file that the disk has damaged").unwrap();
    here.stage_all("1.1.0").await;
    here.post("/v1/update/apply", &json!({ "version": "1.1.0" })).await;
    let status = here.settled().await;
    assert_eq!(status.activity, Activity::Installed { version: Version::new(1, 1, 0) });
    assert!(fs::read(damaged).unwrap().starts_with(CONTENT));
    assert!(!boot_file.exists(), "what systemd-sysupdate would have left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_an_older_one_was_to_replace_is_the_way_back_again_when_its_owner_wants_another() {
    let here = Here::new(WRITES);
    let folder = here.folder.path().join("efi/EFI/Linux");
    fs::rename(folder.join("postkeep_1.0.0.efi"), folder.join("postkeep_1.0.0+0-1.efi")).unwrap();
    here.stage_all("1.1.0").await;
    here.post("/v1/update/apply", &json!({ "version": "1.1.0" })).await;
    let status = here.settled().await;
    let standing: Vec<Standing> = status.versions.iter().map(|one| one.standing).collect();
    assert_eq!(standing, [Standing::Good, Standing::OnTrial { left: 3, done: 0 }]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_that_fails_at_its_end_does_not_start() {
    // The boot file is there; then the slot turns out not to be.
    let here = Here::new(&format!("{WRITES}; rm BOOT/../../../dev/vda7"));
    here.stage_all("1.1.0").await;
    here.post("/v1/update/apply", &json!({ "version": "1.1.0" })).await;
    let status = here.settled().await;
    let Activity::Failed { reason } = &status.activity else { panic!("{status:?}") };
    assert!(reason.contains("dev/vda7"), "{reason}");
    let standing: Vec<Standing> = status.versions.iter().map(|one| one.standing).collect();
    assert_eq!(standing, [Standing::Good, Standing::Bad]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_installed_while_the_version_that_runs_has_still_to_prove_itself() {
    let here = Here::new("touch BOOT/../written");
    let folder = here.folder.path().join("efi/EFI/Linux");
    fs::rename(folder.join("postkeep_1.0.0.efi"), folder.join("postkeep_1.0.0+2-1.efi")).unwrap();
    let (code, answer) = here.post("/v1/update/plan", &here.note("1.1.0")).await;
    let why = answer["detail"].as_str().unwrap();
    assert!(code == 409 && why.contains("1.0.0 has still to prove itself"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_staged_is_installed_only_if_it_may_be_still() {
    let here = Here::new("touch BOOT/../written");
    let boot = here.folder.path().join("efi/EFI/Linux");
    let apply = |more: Value| {
        let mut body = json!({ "version": "1.1.0" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    here.stage_all("1.1.0").await;
    // The box was started again, into a version that has still to prove itself.
    fs::rename(boot.join("postkeep_1.0.0.efi"), boot.join("postkeep_1.0.0+2-1.efi")).unwrap();
    let (code, answer) = here.post("/v1/update/apply", &apply(json!({}))).await;
    assert!(code == 409 && answer["detail"].as_str().unwrap().contains("has still to prove itself"), "{answer}");
    fs::rename(boot.join("postkeep_1.0.0+2-1.efi"), boot.join("postkeep_1.0.0.efi")).unwrap();
    // It runs a newer one than what was staged.
    let release = here.folder.path().join("usr/lib/os-release");
    let text = fs::read_to_string(&release).unwrap();
    fs::write(&release, text.replace("1.0.0", "1.2.0")).unwrap();
    fs::rename(boot.join("postkeep_1.0.0.efi"), boot.join("postkeep_1.2.0.efi")).unwrap();
    let (code, answer) = here.post("/v1/update/apply", &apply(json!({}))).await;
    assert!(code == 422 && answer["detail"].as_str().unwrap().contains("roll back"), "{answer}");
    assert!(!here.folder.path().join("efi/EFI/written").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unsigned_older_too_large_for_another_machine_or_damaged_is_refused_before_anything_is_written() {
    let here = Here::new("touch BOOT/../written");
    let staged = here.folder.path().join(crate::store::FOLDER).join("staged");
    let nothing_is_staged = || fs::read_dir(&staged).map_or(0, Iterator::count) == 0;
    let stranger = SignerKey::generate("stranger.example").unwrap();
    let text = release(Version::new(1, 1, 0), &PARTS.map(|role| (role, CONTENT))).to_toml().unwrap();
    // Signed by whom the box trusts, and wrong all the same.
    let signed = |from: &str, to: &str| {
        assert!(text.contains(from), "{text}");
        json!({ "release": sign(&text.replace(from, to), &[&here.key]).unwrap() })
    };
    let small = format!("size = {}", CONTENT.len());
    for (body, why) in [
        (signed("x86-64", "arm64"), "arm64"),
        (signed("product = \"postkeep\"", "product = \"other\""), "other"),
        (signed(&small, "size = 99999999999"), "99999999999"),
        (json!({ "release": sign(&text, &[&stranger]).unwrap() }), "signed"),
        (json!({ "release": text }), "it is unsigned"),
        (here.note("0.9.0"), "roll back"),
        (here.note("1.0.0"), "runs already"),
    ] {
        for path in ["/v1/update/plan", "/v1/update/stage"] {
            let (code, answer) = here.post(path, &body).await;
            assert_eq!(code, 422, "{answer}");
            assert!(answer["detail"].as_str().unwrap().contains(why), "{why}: {answer}");
            assert!(nothing_is_staged(), "{why}");
        }
    }
    let (code, _) = here.post("/v1/update/stage", &here.note("1.1.0")).await;
    assert_eq!(code, 200);
    let mut cut = CONTENT.to_vec();
    cut.pop();
    let (code, answer) = here.ask(Method::PUT, "/v1/update/files/postkeep_1.1.0.root", cut).await;
    assert_eq!(code, 422);
    assert!(answer["detail"].as_str().unwrap().contains("cut off"), "{answer}");
    let (code, answer) = here.post("/v1/update/apply", &json!({ "version": "1.1.0", "restart": true })).await;
    assert!(code == 409 && answer["detail"].as_str().unwrap().contains("files of the release are missing"), "{answer}");
    let (code, answer) = here.ask(Method::PUT, "/v1/update/files/passwd", CONTENT.to_vec()).await;
    assert_eq!(code, 422, "{answer}");
    let mut older = here.note("0.9.0");
    older["allow-older"] = json!(true);
    assert_eq!(here.post("/v1/update/plan", &older).await.0, 200, "the owner's word is enough");
    assert!(!here.folder.path().join("efi/EFI/written").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_could_not_be_written_is_told_and_what_runs_stays() {
    let here = Here::new("echo 'No space left on device' >&2; exit 1");
    here.stage_all("1.1.0").await;
    here.post("/v1/update/apply", &json!({ "version": "1.1.0", "restart": true })).await;
    let status = here.settled().await;
    let Activity::Failed { reason } = &status.activity else { panic!("{status:?}") };
    assert!(reason.contains("No space left"), "{reason}");
    assert_eq!(status.attempt, None);
    assert!(matches!(&status.history[0].event, Event::Abandoned { reason, .. } if reason.contains("No space")));
    assert!(!here.folder.path().join("asked").exists(), "nothing to start again for");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_rollback_the_version_before_has_to_prove_itself_and_what_runs_is_the_way_back() {
    let here = Here::new("exit 1");
    let (code, answer) = here.post("/v1/update/rollback", &json!({})).await;
    assert_eq!(code, 409);
    assert!(answer["detail"].as_str().unwrap().contains("no other version"), "{answer}");
    fs::write(here.folder.path().join("efi/EFI/Linux/postkeep_0.9.0.efi"), "boot file").unwrap();
    let (code, answer) = here.post("/v1/update/rollback", &json!({ "to": "0.8.0" })).await;
    assert_eq!((code, answer["detail"].as_str().unwrap()), (409, "the version to go back to is 0.9.0"));
    let (code, answer) = here.post("/v1/update/rollback", &json!({})).await;
    assert_eq!(code, 202, "{answer}");
    let boot = here.folder.path().join("efi/EFI/Linux");
    assert!(boot.join("postkeep_1.0.0+0-1.efi").exists() && boot.join("postkeep_0.9.0+3-0.efi").exists());
    let asked = here.folder.path().join("asked");
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while fs::read_to_string(&asked).unwrap_or_default().lines().count() < 3 {
        assert!(std::time::Instant::now() < deadline, "no restart");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(
        fs::read_to_string(&asked).unwrap(),
        "stop postkeepd.service\nstart postkeep-boot-copy.service\n--no-block reboot\n"
    );
    let status = here.settled().await;
    assert_eq!(status.history, [], "told when it has proved itself");
    let attempt = status.attempt.unwrap();
    let place = Place::new(here.folder.path());
    let (old, new) = (Version::new(0, 9, 0), Version::new(1, 0, 0));
    assert_eq!(install::way_back_from_trial(&place, old, Some(&attempt)).unwrap(), Some(new));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_from_a_version_on_trial_trusts_the_one_before() {
    let here = Here::new("exit 1");
    let boot = here.folder.path().join("efi/EFI/Linux");
    fs::rename(boot.join("postkeep_1.0.0.efi"), boot.join("postkeep_1.0.0+2-1.efi")).unwrap();
    fs::write(boot.join("postkeep_0.9.0.efi"), "boot file").unwrap();
    let (code, answer) = here.post("/v1/update/rollback", &json!({})).await;
    assert_eq!(code, 202, "{answer}");
    // Not +0-1: the gate's look that is under way would find it and make it good.
    assert!(boot.join("postkeep_1.0.0+0-2.efi").exists() && boot.join("postkeep_0.9.0.efi").exists());
}

#[test]
fn every_part_of_a_slot_has_a_partition_but_the_boot_file() {
    let without: Vec<Role> =
        PARTS.into_iter().filter(|role| crate::transfer::partition_type(*role).is_none()).collect();
    assert_eq!(without, [Role::Uki]);
}

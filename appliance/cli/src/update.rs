//! `postkeep update …` and `postkeep health`.

use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use postkeep_configuration::command::Outcome;
use postkeep_control::{Client, ClientError, MirrorRequest};
use postkeep_release::Version;
use postkeep_update::api::{Activity, ApplyRequest, Installed, Plan, ReleaseRequest, RollbackRequest, Status};
use postkeep_update::boot_file::Standing;
use serde_json::json;

use crate::arguments::{ReleaseArguments, UpdateCommand};
use crate::{BAD_INPUT, FAILED, client_failure, failure, show};

/// Between two looks at what the box does.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// So long a box may be silent before it is given up. Where all is well it says in time that it goes down.
const SILENCE: Duration = Duration::from_secs(60);
/// A manifest has some kilobytes.
const LARGEST_MANIFEST: u64 = postkeep_release::LARGEST_MANIFEST as u64;

/// Runs one command.
pub(crate) async fn run(client: &Client, command: UpdateCommand, json: bool) -> Outcome {
    match command {
        UpdateCommand::Plan(release) => match plan(client, &release, false).await {
            Ok(plan) => show::value(&plan, json, described),
            Err(outcome) => outcome,
        },
        UpdateCommand::Apply { release, no_restart, although_unwell } => {
            match apply(client, &release, !no_restart, although_unwell).await {
                Ok(applied) if json => show::value(&applied, true, |_| String::new()),
                Ok(applied) => Outcome {
                    text: format!(
                        "{} is installed{}\n",
                        applied["version"].as_str().unwrap_or_default(),
                        if no_restart {
                            "; it runs after the next restart"
                        } else {
                            "; the machine starts again with it. `postkeep update status` says whether it has proved itself"
                        }
                    ),
                    complaint: String::new(),
                    code: 0,
                },
                Err(outcome) => outcome,
            }
        }
        UpdateCommand::Status => match client.update_status().await {
            Ok(status) => show::value(&status, json, told),
            Err(error) => client_failure(&error),
        },
        UpdateCommand::Rollback { to } => match client.update_rollback(&RollbackRequest { to }).await {
            Ok(status) => show::value(&status, json, |status| {
                let to = status.attempt.as_ref().map(|attempt| attempt.to);
                let named = to.map_or_else(String::new, |to| format!(", with {to}"));
                let is_on_trial = |one: &Installed| Some(one.version) == to && one.standing != Standing::Good;
                match status.versions.iter().any(is_on_trial) {
                    true => format!(
                        "the machine starts again{named}. `postkeep update status` says whether it has proved itself; if it does \
                         not, {} comes back\n",
                        status.running
                    ),
                    // From a version on trial there is no other way.
                    false => format!("the machine starts again{named}\n"),
                }
            }),
            Err(error) => client_failure(&error),
        },
    }
}

/// Lets the mail core examine itself.
pub(crate) async fn health(client: &Client, json: bool) -> Outcome {
    match client.examine().await {
        Ok(checks) => {
            let well = checks.iter().all(|check| check.well);
            let mut outcome = show::value(&checks, json, |checks| {
                checks.iter().fold(String::new(), |mut text, check| {
                    // Writing to a String cannot fail.
                    let word = if check.well { "well" } else { "UNWELL" };
                    let _ = writeln!(text, "{:<12} {word:<7} {}", check.name, check.detail);
                    text
                })
            });
            if !well {
                outcome.code = FAILED;
            }
            outcome
        }
        Err(error) => client_failure(&error),
    }
}

async fn plan(client: &Client, release: &ReleaseArguments, stage: bool) -> Result<Plan, Outcome> {
    let asked = if is_url(&release.release) {
        let mirror = release.release.clone();
        client.update_from_mirror(&MirrorRequest { mirror, allow_older: release.allow_older, stage }).await
    } else {
        let text = manifest(Path::new(&release.release))?;
        client.update_plan(&ReleaseRequest { release: text, allow_older: release.allow_older }, stage).await
    };
    asked.map_err(|error| client_failure(&error))
}

/// Brings everything to the box and has it installed.
async fn apply(
    client: &Client,
    release: &ReleaseArguments,
    restart: bool,
    although_unwell: bool,
) -> Result<serde_json::Value, Outcome> {
    if !although_unwell {
        must_be_well(client).await?;
    }
    let plan = plan(client, release, true).await?;
    if is_url(&release.release) {
        fetched(client).await?;
    } else {
        let folder = Path::new(&release.release).parent().unwrap_or(Path::new("."));
        for wanted in plan.files.iter().filter(|wanted| !wanted.staged) {
            let path = folder.join(&wanted.name);
            let file = File::open(&path).map_err(|error| {
                failure(BAD_INPUT, &format!("cannot read {}, a file of the release: {error}", path.display()))
            })?;
            let bar = bar(wanted.size, &wanted.name);
            let sent = client.update_file(&wanted.name, bar.wrap_read(file)).await;
            bar.finish_and_clear();
            sent.map_err(|error| client_failure(&error))?;
        }
    }
    let request = ApplyRequest { version: plan.version, restart, allow_older: release.allow_older };
    client.update_apply(&request).await.map_err(|error| client_failure(&error))?;
    installed(client, plan.version).await?;
    Ok(json!({ "version": plan.version.to_string(), "running": plan.running.to_string(), "restart": restart }))
}

/// A new version has to prove that mail works. Where it does not work now, a full disk for instance, it would be blamed.
async fn must_be_well(client: &Client) -> Result<(), Outcome> {
    let checks = client.examine().await.map_err(|error| client_failure(&error))?;
    let unwell: Vec<String> =
        checks.iter().filter(|check| !check.well).map(|check| format!("{}: {}", check.name, check.detail)).collect();
    if unwell.is_empty() {
        return Ok(());
    }
    Err(failure(
        FAILED,
        &format!(
            "nothing was installed: the box is not well now, and a new version that finds it so is sent back. Cure it first \
             (`postkeep health`), or say --although-unwell if the new version is the cure. {}",
            unwell.join("; ")
        ),
    ))
}

/// Waits until the box has fetched everything.
async fn fetched(client: &Client) -> Result<(), Outcome> {
    let mut shown = None;
    loop {
        let fetching = client.update_fetching().await.map_err(|error| client_failure(&error))?;
        if let Some(why) = fetching.failed {
            return Err(failure(FAILED, &format!("the box could not fetch the release: {why}")));
        }
        if !fetching.active {
            return Ok(());
        }
        let status = client.update_status().await.map_err(|error| client_failure(&error))?;
        if let Activity::Staging { octets, of, .. } = status.activity {
            shown.get_or_insert_with(|| bar(of, "the box fetches")).set_position(octets);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Waits until the slot is written: until the box says so.
async fn installed(client: &Client, version: Version) -> Result<(), Outcome> {
    let unknown = |why: &str| {
        failure(FAILED, &format!("whether {version} was installed is not known: {why}; see `postkeep update status`"))
    };
    let mut silent_since = None;
    let spinner = ProgressBar::new_spinner().with_message(format!("the box writes {version} into the other slot"));
    spinner.enable_steady_tick(LOOK_AGAIN);
    loop {
        let status = client.update_status().await.map(|status| status.activity);
        if status.is_ok() {
            silent_since = None;
        }
        match status {
            Ok(Activity::Installed { .. } | Activity::Restarting { .. }) => return Ok(()),
            Err(ClientError::Unreachable(why)) => {
                if silent_since.get_or_insert_with(Instant::now).elapsed() >= SILENCE {
                    return Err(unknown(&why));
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Ok(Activity::Idle) => return Err(unknown("the box has started again meanwhile")),
            Ok(Activity::Failed { reason }) => {
                return Err(failure(FAILED, &format!("{version} was not installed: {reason}")));
            }
            Ok(_) => tokio::time::sleep(LOOK_AGAIN).await,
            Err(error) => return Err(client_failure(&error)),
        }
    }
}

fn is_url(text: &str) -> bool {
    text.starts_with("https://")
}

fn manifest(path: &Path) -> Result<String, Outcome> {
    use std::io::Read as _;
    let failed = |error: std::io::Error| {
        let is_other_url = path.to_str().is_some_and(|text| text.contains("://"));
        let help = if is_other_url { "; a mirror is an https:// URL" } else { "" };
        failure(BAD_INPUT, &format!("cannot read {}: {error}{help}", path.display()))
    };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(LARGEST_MANIFEST + 1).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

fn bar(octets: u64, name: &str) -> ProgressBar {
    let form = "{msg} {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} to go";
    let style = ProgressStyle::with_template(form).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(octets).with_style(style).with_message(name.to_owned())
}

fn described(plan: &Plan) -> String {
    let mut text = format!(
        "{} may be installed; {} runs. Made at {}, signed by {}.\n",
        plan.version,
        plan.running,
        plan.issued,
        plan.signed_by.join(", ")
    );
    if let Some(lost) = plan.replaces {
        let _ = writeln!(text, "It takes the place of {lost}: there is no going back to that afterwards.");
    }
    let (here, needed): (Vec<_>, Vec<_>) = plan.files.iter().partition(|file| file.staged);
    let octets: u64 = needed.iter().map(|file| file.size).sum();
    let _ = writeln!(
        text,
        "{} files with {:.1} MB have to come, {} are there. Written: {}.",
        needed.len(),
        octets as f64 / 1e6,
        here.len(),
        plan.disks.join(", ")
    );
    text
}

fn told(status: &Status) -> String {
    let mut text = String::new();
    for version in &status.versions {
        let word = if version.running { "runs" } else { "" };
        let _ = writeln!(text, "{:<12} {word:<5} {}", version.version.to_string(), version.standing);
    }
    let _ = match &status.activity {
        Activity::Idle => Ok(()),
        Activity::Staging { version, octets, of } => {
            writeln!(text, "files of {version} come in: {:.1} of {:.1} MB", *octets as f64 / 1e6, *of as f64 / 1e6)
        }
        Activity::Installing { version } => writeln!(text, "{version} is being written into the other slot"),
        Activity::Installed { version } => writeln!(text, "{version} is installed and runs after the next restart"),
        Activity::Restarting { version } => writeln!(text, "the machine starts again, to run {version}"),
        Activity::Failed { reason } => writeln!(text, "the last thing that was tried has failed: {reason}"),
    };
    for dated in &status.history {
        let _ = writeln!(text, "{} {}", dated.time, dated.event);
    }
    text
}

#[cfg(test)]
mod tests {
    use postkeep_update::api::Wanted;

    use super::*;

    #[test]
    fn a_plan_says_what_is_lost_and_what_has_to_come() {
        let wanted = |name: &str, staged| Wanted { name: name.to_owned(), size: 50_000_000, staged };
        let plan = Plan {
            running: Version::new(1, 0, 0),
            version: Version::new(1, 1, 0),
            issued: "2026-11-20T10:00:00Z".parse().unwrap(),
            signed_by: vec!["release.example".to_owned()],
            replaces: Some(Version::new(0, 9, 0)),
            files: vec![wanted("a", false), wanted("b", true)],
            disks: vec!["/dev/vda".to_owned()],
        };
        let text = described(&plan);
        for part in ["1.1.0 may be installed; 1.0.0 runs", "place of 0.9.0", "1 files with 50.0 MB", "/dev/vda"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

//! The seeds of the fuzz targets, run as ordinary tests: what a fuzzer once found stays found, and
//! the targets keep compiling without a nightly compiler.

#[path = "../../fuzz/targets.rs"]
mod targets;

use std::path::{Path, PathBuf};

fn seeds(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a file of the corpus").path())
        .collect();
    files.sort();
    files
}

fn run(name: &str) {
    let (_, target) = targets::TARGETS.iter().find(|(known, _)| *known == name).expect("a target of that name");
    let seeds = seeds(name);
    assert!(seeds.len() >= 5, "{name} has only {} seeds", seeds.len());
    for seed in seeds {
        // The name shows in the output of a test that fails.
        eprintln!("{}", seed.display());
        let bytes = std::fs::read(&seed).expect("read a seed");
        target(&bytes);
        // And what a broken connection or a torn write leaves of it.
        for cut in 1..8 {
            target(&bytes[..bytes.len() * cut / 8]);
        }
    }
}

#[test]
fn every_target_has_a_folder_of_seeds_and_every_folder_a_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let mut folders: Vec<String> = std::fs::read_dir(corpus)
        .expect("the corpus")
        .map(|entry| entry.expect("a folder of the corpus").file_name().to_string_lossy().into_owned())
        .collect();
    folders.sort();
    let mut names: Vec<&str> = targets::TARGETS.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    assert_eq!(folders, names);
}

#[test]
fn the_seeds_of_tls_reports_and_policies_keep_their_promises() {
    run("tls_report");
    run("mta_sts");
}

#[test]
fn the_seeds_of_what_lies_below_the_system_keep_their_promises() {
    run("boot_file");
    run("event_log");
    run("signature_list");
}

#[test]
fn the_seeds_of_the_smtp_server_keep_its_promises() {
    run("smtp_server");
}

#[test]
fn the_seeds_of_the_smtp_client_keep_its_promises() {
    run("smtp_client");
}

#[test]
fn the_seeds_of_the_header_path_keep_its_promises() {
    run("header");
}

#[test]
fn the_seeds_of_the_configuration_keep_its_promises() {
    run("configuration");
}

#[test]
fn the_seeds_of_the_spool_segment_keep_its_promises() {
    run("spool_segment");
}

#[test]
fn the_seeds_of_the_proxy_header_keep_its_promises() {
    run("proxy_header");
}

#[test]
fn the_seeds_of_mail_that_came_back_keep_its_promises() {
    run("feedback");
}

#[test]
fn the_seeds_of_suppression_files_keep_its_promises() {
    run("suppression_file");
}

#[test]
fn the_seeds_of_messages_by_http_keep_its_promises() {
    run("http_message");
}

#[test]
fn the_seeds_of_one_click_unsubscribe_keep_its_promises() {
    run("one_click");
}

/// Not a test: `cargo test -p postkeep-tests --test fuzz_seeds -- --ignored` after a change of the format.
#[test]
#[ignore = "writes the seeds of spool_segment anew"]
fn write_the_seeds_of_the_spool_segment() {
    use bytes::Bytes;
    use postkeep_spool::{Disk, NewMessage, Operation, RetryState, Settings, Spool};

    let accept = |id, recipients, size: usize| {
        Operation::Accept(NewMessage {
            id,
            received: 1_790_000_000,
            metadata: Bytes::from_static(b"an envelope"),
            body: [Bytes::from_static(b"Received: from here\r\n"), Bytes::from(vec![b'm'; size])],
            recipients,
        })
    };
    for (name, messages, size) in [("empty", 0, 0), ("one", 1, 100), ("several", 5, 700), ("many", 24, 3000)] {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = Settings { segment_size: 64 << 10, minimum_free: 0, ..Settings::new(folder.path()) };
        let (spool, _) = Spool::open(settings, Disk, |_| ()).expect("a spool");
        for number in 0..messages {
            let id = spool.next_id();
            spool.submit([accept(id, 1 + number % 3, size)]).wait().expect("accepted");
            let state = RetryState { attempts: 1, due: 1_790_000_300 };
            match number % 4 {
                0 => spool.submit([Operation::Complete { id, recipient: 0 }]).wait().expect("completed"),
                1 => spool.submit([Operation::Defer { id, recipient: 0, state }]).wait().expect("deferred"),
                2 => {
                    let (key, value) = (Bytes::from_static(b"pause"), Bytes::from_static(b"stream news"));
                    spool.submit([Operation::Note { key, value }]).wait().expect("noted");
                }
                _ => {
                    let batch = (0..3).map(|_| accept(spool.next_id(), 2, 50)).collect::<Vec<_>>();
                    spool.submit(batch).wait().expect("accepted together");
                }
            }
        }
        spool.close();
        for (number, entry) in std::fs::read_dir(folder.path()).expect("segments").flatten().enumerate() {
            let bytes = std::fs::read(entry.path()).expect("a segment");
            // No longer than what the fuzzer makes itself.
            let length = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1).min(16 << 10);
            if length > 0 {
                let to = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/spool_segment");
                std::fs::write(to.join(format!("{name}-{number}")), &bytes[..length]).expect("write a seed");
            }
        }
    }
}

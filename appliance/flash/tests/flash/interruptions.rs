//! What is left when the flasher is killed, and that the same command goes on.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bench::{Bench, MIB, run};

fn written(bench: &Bench) -> u64 {
    let state = fs::read(bench.path("postkeep.raw.zst.flash-state")).unwrap_or_default();
    serde_json::from_slice::<Value>(&state).ok().and_then(|state| state["written"].as_u64()).unwrap_or_default()
}

#[test]
fn killed_anywhere_it_leaves_disks_that_do_not_boot_and_goes_on_to_the_same_end() {
    let bench = Bench::new();
    let disks = ["one", "two"].map(|name| bench.disk(name, 64 * MIB));
    let other = bench.disk("other", 4 * MIB);
    let mut killed = 0;
    for mib in [3, 17, 40] {
        let mut child =
            bench.write("postkeep.raw.zst", &["one", "two"], &["--sync-every", "1", "--json"]).spawn().unwrap();
        let begun = Instant::now();
        while written(&bench) < mib << 20 && child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            continue;
        }
        killed += 1;
        for disk in &disks {
            let disk = fs::read(disk).unwrap();
            assert!(disk[..1024].iter().all(|octet| *octet == 0), "a disk could boot");
            let last = disk.len() - 512;
            assert_ne!(&disk[last..last + 8], b"EFI PART");
        }
    }
    assert!(killed > 0, "it was always too quick to be killed");
    // What was written before may have changed in the meantime: it is compared, not believed.
    let mut disk = fs::read(&disks[0]).unwrap();
    disk[2 * MIB] ^= 1;
    fs::write(&disks[0], disk).unwrap();
    let (code, said) = run(&mut bench.write("postkeep.raw.zst", &["one", "two"], &[]));
    assert_eq!(code, 0, "{said}");
    let [one, two] = disks.map(|disk| fs::read(disk).unwrap());
    bench.assert_flashed(&one);
    bench.assert_flashed(&two);
    assert_eq!(fs::read(other).unwrap(), vec![0xa5; 4 * MIB]);
}

#[test]
fn a_state_of_other_work_is_asked_about() {
    let bench = Bench::new();
    let disk = bench.disk("one", 64 * MIB);
    for state in
        ["{", r#"{"image":"0000000000000000000000000000000000000000000000000000000000000000","written":5,"disks":[]}"#]
    {
        fs::write(bench.path("postkeep.raw.zst.flash-state"), state).unwrap();
        let (code, said) = run(&mut bench.write("postkeep.raw.zst", &["one"], &[]));
        assert_eq!(code, 2, "{said}");
        assert!(said.contains("remove it to begin anew"), "{said}");
    }
    assert!(fs::read(disk).unwrap() == vec![0xa5; 64 * MIB]);
}

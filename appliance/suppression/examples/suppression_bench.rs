//! Prints how fast the suppression list takes a file, answers, starts and is made anew, and what it
//! needs. Usage: `suppression_bench DIRECTORY [ENTRIES]`; the directory must not exist and is removed.
//! Prints one JSON object on the last line.

#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use postkeep_configuration as configuration;
use postkeep_smtp::Address;
use postkeep_suppression::{ImportOptions, Reason, Scope, Suppression, import};

type Failure = Box<dyn std::error::Error>;

/// Look-ups of each kind.
const LOOKS: u64 = 1_000_000;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("usage: suppression_bench DIRECTORY [ENTRIES]")?);
    let entries: u64 = arguments.next().map_or(Ok(10_000_000), |text| text.parse())?;
    std::fs::create_dir(&folder)?;
    let outcome = measure(&folder, entries);
    std::fs::remove_dir_all(&folder)?;
    outcome
}

fn measure(folder: &Path, entries: u64) -> Result<(), Failure> {
    let file = folder.join("list.csv");
    let mut text = BufWriter::new(File::create(&file)?);
    text.write_all(b"address,reason,scope,time\n")?;
    for number in 0..entries {
        writeln!(text, "{},hard-bounce,all,2026-01-31T12:00:00Z", name(number))?;
    }
    text.into_inner()?.sync_all()?;
    let settings =
        configuration::Suppression { directory: folder.join("suppression"), ..configuration::Suppression::default() };

    let list = Suppression::open(&settings)?;
    let options =
        ImportOptions { format: None, reason: None, scope: Scope::All, note: "bench".into(), now: 1_769_860_800 };
    let mut results = Results::default();
    let (report, took, cpu) = timed(|| {
        import(&list, BufReader::with_capacity(1 << 20, File::open(&file)?), &options, |_| ()).map_err(Failure::from)
    })?;
    assert_eq!((report.0.added, report.0.refused), (entries, 0), "{:?}", report.0);
    results.put("import-lines-per-second", entries as f64 / took);
    results.put("import-lines-per-cpu-second", entries as f64 / cpu);
    results.put("import-peak-memory-mib", memory("VmHWM"));
    let ((), took, _) = timed(|| {
        list.close();
        Ok(())
    })?;
    results.put("close-seconds", took);
    results.put("entries", list.statistics().entries.iter().map(|(_, count)| *count as f64).sum());
    drop(list);

    let (list, took, _) = timed(|| Ok(Suppression::open(&settings)?))?;
    results.put("start-seconds", took);
    let statistics = list.statistics();
    results.put("filter-mib", statistics.filter_bytes as f64 / f64::from(1 << 20));
    results.put("index-mib", statistics.index_bytes as f64 / f64::from(1 << 20));
    results.put("journal-mib", statistics.journal_bytes as f64 / f64::from(1 << 20));

    // What is not in the list is nearly all that is ever asked for.
    let strangers: Vec<Address> = (0..1000).map(|number| name(entries + number).parse()).collect::<Result<_, _>>()?;
    let (found, took, _) = timed(|| look(&list, || strangers.iter()))?;
    assert_eq!(found, 0);
    results.put("look-stranger-ns", took * 1e9 / LOOKS as f64);
    let held: Vec<Address> = (0..10_000u64)
        .map(|number| name(number.wrapping_mul(2_654_435_761) % entries).parse())
        .collect::<Result<_, _>>()?;
    let (found, took, _) = timed(|| look(&list, || held.iter()))?;
    assert_eq!(found, LOOKS);
    results.put("look-suppressed-ns", took * 1e9 / LOOKS as f64);
    results.put("memory-mib", memory("VmRSS"));

    // The same file once more changes nothing.
    let (report, took, _) = timed(|| {
        import(&list, BufReader::with_capacity(1 << 20, File::open(&file)?), &options, |_| ()).map_err(Failure::from)
    })?;
    assert_eq!((report.0.added, report.0.known), (0, entries));
    results.put("import-again-lines-per-second", entries as f64 / took);
    list.close();
    drop(list);

    std::fs::remove_dir_all(settings.directory.join("index"))?;
    let (list, took, _) = timed(|| Ok(Suppression::open(&settings)?))?;
    results.put("rebuild-seconds", took);
    assert_eq!(look(&list, || held.iter())?, LOOKS);
    results.put("peak-memory-mib", memory("VmHWM"));
    list.close();
    println!("{{{}}}", results.0.join(", "));
    Ok(())
}

/// Looks up addresses round and round; how many are suppressed.
fn look<'a, I: Iterator<Item = &'a Address>>(list: &Suppression, addresses: impl Fn() -> I) -> Result<u64, Failure> {
    let (mut found, mut looks) = (0, 0);
    loop {
        for address in addresses() {
            if looks == LOOKS {
                return Ok(found);
            }
            looks += 1;
            found += u64::from(
                list.check(address, "default", None)?.is_some_and(|entry| entry.reason == Reason::HardBounce),
            );
        }
    }
}

fn name(number: u64) -> String {
    format!("recipient.{number}@domain{}.example", number % 50_000)
}

#[derive(Default)]
struct Results(Vec<String>);

impl Results {
    fn put(&mut self, name: &str, value: f64) {
        println!("{name:>32} {value:>14.1}");
        self.0.push(format!("\"{name}\": {value:.3}"));
    }
}

/// What it gives, with seconds and CPU seconds.
fn timed<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<(T, f64, f64), Failure> {
    let (started, cpu) = (Instant::now(), cpu_seconds());
    let result = work()?;
    Ok((result, started.elapsed().as_secs_f64(), cpu_seconds() - cpu))
}

/// User and system time of this process and its threads.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(") ").next().unwrap_or_default();
    // Fields 14 and 15 of proc(5), in ticks of a hundredth of a second.
    after.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn memory(what: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

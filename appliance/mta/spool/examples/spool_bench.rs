//! Prints how fast the spool takes messages and completes them, and what it asks of the kernel
//! for that. Usage: `spool_bench DIRECTORY [SECONDS] [keep]`; the directory is filled and emptied.
//! With `keep` nothing is completed, and the start that finds it all again is timed.

#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use postkeep_spool::{Disk, NewMessage, Operation, Settings, Spool, Storage};

/// The disk, with a count of the calls that a group makes.
#[derive(Clone, Default)]
struct Counted {
    writes: Arc<AtomicU64>,
    syncs: Arc<AtomicU64>,
    others: Arc<AtomicU64>,
}

impl Counted {
    fn other(&self) -> Disk {
        self.others.fetch_add(1, Ordering::Relaxed);
        Disk
    }
}

impl Storage for Counted {
    type File = std::fs::File;

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.other().create_directory(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Self::File>> {
        self.other().lock(path)
    }
    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.other().list(directory)
    }
    fn create(&self, path: &Path) -> io::Result<Self::File> {
        self.other().create(path)
    }
    fn open(&self, path: &Path) -> io::Result<Self::File> {
        self.other().open(path)
    }
    fn open_writable(&self, path: &Path) -> io::Result<Self::File> {
        self.other().open_writable(path)
    }
    fn length(&self, file: &Self::File) -> io::Result<u64> {
        self.other().length(file)
    }
    fn preallocate(&self, file: &Self::File, size: u64) -> io::Result<()> {
        self.other().preallocate(file, size)
    }
    fn write_at(&self, file: &Self::File, offset: u64, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Disk.write_at(file, offset, slices)
    }
    fn sync(&self, file: &Self::File) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        Disk.sync(file)
    }
    fn truncate(&self, file: &Self::File, length: u64) -> io::Result<()> {
        self.other().truncate(file, length)
    }
    fn read_at(&self, file: &Self::File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.other().read_at(file, offset, buffer)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.other().rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.other().remove(path)
    }
    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.other().sync_directory(directory)
    }
    fn free_space(&self, directory: &Path) -> io::Result<u64> {
        self.other().free_space(directory)
    }
    fn random(&self) -> u64 {
        Disk.random()
    }
}

fn cpu_milliseconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) * 10.0
}

/// Submits from so many threads until the time is over; returns how many messages.
fn load(spool: &Spool<Counted>, size: usize, submitters: usize, time: Duration, keep: bool) -> u64 {
    let body = Bytes::from(vec![b'x'; size]);
    let end = Instant::now() + time;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..submitters)
            .map(|_| {
                let body = body.clone();
                scope.spawn(move || {
                    let mut count = 0;
                    while Instant::now() < end {
                        let id = spool.next_id();
                        let message = NewMessage {
                            id,
                            received: 1,
                            metadata: Bytes::from_static(&[b'm'; 300]),
                            body: [Bytes::from_static(&[b'p'; 200]), body.clone()],
                            recipients: 1,
                        };
                        if let Err(error) = spool.submit([Operation::Accept(message)]).wait() {
                            println!("refused: {error}");
                            break;
                        }
                        if !keep {
                            // Delivery does not wait for its completion to be durable.
                            drop(spool.submit([Operation::Complete { id, recipient: 0 }]));
                        }
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(0)).sum()
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or("usage: spool_bench DIRECTORY [SECONDS] [keep]")?);
    let seconds: u64 = arguments.next().map_or(Ok(3), |text| text.parse())?;
    let keep = arguments.next().is_some_and(|word| word == "keep");
    println!(
        "size KB  submitters  messages/s  CPU-ms/message  messages/group  writes/message  syncs/message  others/message"
    );
    for kilobytes in [1, 10, 100] {
        for submitters in [1, 20, 100] {
            let storage = Counted::default();
            let (spool, _) = Spool::open(Settings::new(&directory), storage.clone(), |_| {})?;
            // The first segments are made and not yet recycled; that is not what lasts.
            load(&spool, kilobytes << 10, submitters, Duration::from_secs(1), keep);
            let counters = [&storage.writes, &storage.syncs, &storage.others];
            counters.iter().for_each(|counter| counter.store(0, Ordering::Relaxed));
            let (cpu, start) = (cpu_milliseconds(), Instant::now());
            let groups = spool.statistics().groups;
            let count = load(&spool, kilobytes << 10, submitters, Duration::from_secs(seconds), keep) as f64;
            let elapsed = start.elapsed().as_secs_f64();
            let groups = (spool.statistics().groups - groups) as f64;
            let [writes, syncs, others] = counters.map(|counter| counter.load(Ordering::Relaxed) as f64 / count);
            println!(
                "{kilobytes:>7}  {submitters:>10}  {:>10.0}  {:>14.3}  {:>14.1}  {writes:>14.2}  {syncs:>13.2}  {others:>14.3}",
                count / elapsed,
                (cpu_milliseconds() - cpu) / count,
                count / groups,
            );
            drop(spool);
            if keep {
                let start = Instant::now();
                let (spool, recovery) = Spool::open(Settings::new(&directory), storage, |_| {})?;
                let bytes = spool.statistics().bytes >> 20;
                println!("    start: {} messages in {bytes} MiB found in {:.2?}", recovery.messages, start.elapsed());
            }
            for entry in std::fs::read_dir(&directory)? {
                std::fs::remove_file(entry?.path())?;
            }
        }
    }
    Ok(())
}

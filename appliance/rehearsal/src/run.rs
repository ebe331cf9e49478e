//! A whole rehearsal from the owner's configuration to the summary: the
//! simulated internet, a real `postkeepd`, the campaign, and the wait until
//! every accepted recipient has come to an end.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use postkeep_configuration::Configuration;

use crate::Error;
use crate::block::Block;
use crate::campaign::{Campaign, Plan};
use crate::handed::Handed;
use crate::inject::inject;
use crate::internet::Internet;
use crate::learnt::{self, CameBack};
use crate::progress::Watching;
use crate::stage::{Addresses, Stage};
use crate::stop::Stop;
use crate::sum_up::sum_up;
use crate::summary::Summary;
use crate::watch::Watch;

/// What to rehearse, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The owner's configuration file.
    pub configuration: PathBuf,
    /// Recipients of the campaign.
    pub recipients: u64,
    /// Decides every chance.
    pub seed: u64,
    /// How many times faster waits pass, 1 or more.
    pub hurry: f64,
    /// Longest life of the rehearsal; what has no end by then is unaccounted for.
    pub deadline: Duration,
    /// Submission connections.
    pub connections: usize,
    /// `postkeepd`; absent: beside this program.
    pub daemon: Option<PathBuf>,
    /// Folder for everything the rehearsal writes; absent: a temporary one that is removed afterwards.
    pub scratch: Option<PathBuf>,
    /// Another rule book than the shipped one.
    pub rules: Option<PathBuf>,
    /// Where the simulated internet lives.
    pub block: Block,
    /// Port of the simulated MX hosts; 0: any that is free.
    pub port: u16,
    /// A folder that was prepared for a box elsewhere. It decides what else would be said here: configuration, seed,
    /// hurry, deadline, rules, block and port.
    pub prepared: Option<PathBuf>,
    /// How long a box elsewhere may take to open its doors.
    pub wait: Duration,
    /// Verify the signatures of every so many-th message; 1: all.
    pub verify_every: u64,
    /// Who watches.
    pub watching: Watching,
}

impl Options {
    /// Ten thousand recipients, seed 1, no hurry, an hour at most.
    pub fn new(configuration: impl Into<PathBuf>) -> Self {
        Self {
            configuration: configuration.into(),
            recipients: 10_000,
            seed: 1,
            hurry: 1.0,
            deadline: Duration::from_secs(3600),
            connections: 6,
            daemon: None,
            scratch: None,
            rules: None,
            block: Block::default(),
            port: 0,
            prepared: None,
            wait: Duration::from_secs(300),
            verify_every: 1,
            watching: Watching::Somebody,
        }
    }
}

/// Rehearses a configuration and says how it fared. Broken promises are in the summary, not in the error.
///
/// # Errors
/// It could not be held, or a signal stopped it; then nothing of it is left.
pub async fn rehearse(mut options: Options) -> Result<Summary, Error> {
    let mut stop = Stop::new()?;
    let mut stage = stop.unless_asked(Stage::set_up(&mut options)).await?;
    let result = tokio::select! {
        // A signal at a terminal reaches the daemon too, whose end is no surprise then.
        biased;
        () = stop.asked() => None,
        result = Rehearsed::of(&options, &mut stage) => Some(result?),
    };
    // The folder is named first, so that it outlives those who use it.
    let Stage { scratch: _scratch, internet, daemon, configuration, notes, .. } = stage;
    let end = async {
        // What the daemon does while it stops counts too.
        if let Some(daemon) = daemon {
            daemon.stop().await?;
        }
        match result {
            Some(mut result) => Ok(result.summary(&options, &internet, &configuration, notes).await),
            None => Err(Error::Stopped),
        }
    };
    stop.unless_asked(end).await
}

/// A campaign that has come to its end.
struct Rehearsed {
    handed: Arc<Mutex<Handed>>,
    watch: Watch,
    end: End,
    came_back: CameBack,
}

impl Rehearsed {
    async fn of(options: &Options, stage: &mut Stage) -> Result<Self, Error> {
        stage.await_doors(options.wait).await?;
        let handed = Arc::new(Mutex::new(Handed::default()));
        let mut watch = Watch::new(options.watching, &stage.ready.records, &stage.internet);
        let end = campaign(options, stage, &mut watch, &handed, Instant::now()).await;
        // Time for anything that comes too late or twice.
        tokio::time::sleep(Duration::from_millis(500)).await;
        watch.progress.end();
        let end = end?;
        let (mut came_back, suppressed) =
            learnt::learn(&stage.internet, &stage.ready.list, &stage.configuration).await?;
        let first = Campaign::new(plan(options, stage), &stage.book);
        let again = learnt::second_wave(first, options.seed, &suppressed);
        let (doors, patience) = (stage.doors(), options.deadline);
        learnt::send_again(&mut came_back, again, doors, patience, &stage.internet, &mut watch).await?;
        if stage.daemon.is_none() {
            // Records of a box elsewhere come behind the mail.
            watch.quiet().await;
        }
        Ok(Self { handed, watch, end, came_back })
    }

    async fn summary(
        &mut self,
        options: &Options,
        internet: &Internet,
        configuration: &Configuration,
        notes: Vec<String>,
    ) -> Summary {
        internet.verifier().settle().await;
        self.watch.read();
        let handed = self.handed.lock().unwrap_or_else(PoisonError::into_inner);
        let at_deadline = self.end.at_deadline;
        let mut summary =
            sum_up(internet, configuration, &handed, &mut self.watch, self.came_back.clone(), at_deadline);
        summary.notes = notes;
        summary.seed = options.seed;
        summary.hurry = options.hurry;
        summary.submission_seconds = self.end.submitted.as_secs_f64();
        summary
    }
}

/// How a campaign ended.
struct End {
    /// How long submitting took.
    submitted: Duration,
    /// The deadline came first.
    at_deadline: bool,
}

/// Submits and waits until every accepted recipient has an end, or until the deadline. What is being handed over then
/// stays without an answer.
async fn campaign(
    options: &Options,
    stage: &mut Stage,
    watch: &mut Watch,
    handed: &Arc<Mutex<Handed>>,
    started: Instant,
) -> Result<End, Error> {
    let mut submission = Box::pin(inject(
        Campaign::new(plan(options, stage), &stage.book),
        stage.doors(),
        options.connections,
        Arc::clone(handed),
    ));
    let mut submitted = None;
    let silence = longest_silence(&stage.configuration);
    loop {
        tokio::select! {
            result = &mut submission, if submitted.is_none() => {
                result?;
                submitted = Some(started.elapsed());
            }
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
        watch.look(&stage.internet, handed, started);
        stage.lives()?;
        let end = |submitted, at_deadline| Ok(End { submitted, at_deadline });
        match submitted {
            Some(length) if watch.open.is_empty() => return end(length, false),
            // Nothing is going to happen any more, though something should.
            Some(length) if started.elapsed() > watch.last_event.max(length) + silence => return end(length, false),
            _ if started.elapsed() > options.deadline => return end(submitted.unwrap_or(started.elapsed()), true),
            _ => {}
        }
    }
}

/// Longer than anything that is being retried stays silent.
fn longest_silence(configuration: &Configuration) -> Duration {
    let waits = configuration.stream.values().flat_map(|stream| {
        let jitter = 1.0 + stream.retry_jitter.clamp(0.0, 1.0);
        stream.retry.iter().map(move |wait| wait.as_std().mul_f64(jitter))
    });
    let longest = waits.max().unwrap_or_default().max(configuration.backoff.longest_pause.as_std());
    longest + Duration::from_secs(30)
}

/// The campaign that fits the owner's configuration.
fn plan(options: &Options, stage: &Stage) -> Plan {
    let intake = &stage.configuration.intake;
    let largest = usize::try_from(intake.message_size.bytes()).unwrap_or(usize::MAX);
    Plan {
        seed: options.seed,
        recipients: options.recipients,
        domains: stage.domains.clone(),
        stream_header: intake.stream_header.clone(),
        streams: stage.configuration.stream.keys().map(|name| (name != "default").then(|| name.clone())).collect(),
        recipients_per_message: intake.recipients as usize,
        largest_body: (largest / 2).clamp(1024, 20_000),
    }
}

/// What somebody who keeps a rehearsal up is told.
#[derive(Debug)]
pub enum News<'a> {
    /// Everything answers.
    Up(&'a Addresses),
    /// The campaign, if there was one, has come to its end.
    Done(&'a Summary),
}

/// Sends a campaign (none, if it has no recipients) and then keeps everything up until Ctrl-C or SIGTERM.
pub async fn serve(mut options: Options, mut tell: impl FnMut(News<'_>)) -> Result<(), Error> {
    let mut stop = Stop::new()?;
    let mut stage = stop.unless_asked(Stage::set_up(&mut options)).await?;
    tell(News::Up(&stage.addresses()));
    let up = async {
        if options.recipients > 0 {
            let mut result = Rehearsed::of(&options, &mut stage).await?;
            let notes = stage.notes.clone();
            tell(News::Done(&result.summary(&options, &stage.internet, &stage.configuration, notes).await));
        }
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            stage.lives()?;
        }
    };
    tokio::select! {
        biased;
        () = stop.asked() => {}
        result = up => return result,
    }
    // Ctrl-C at a terminal reaches the daemon too; either way it is asked to stop, and waited for.
    let Stage { scratch: _scratch, internet, daemon, .. } = stage;
    let end = async {
        // Every arrival has its line.
        internet.verifier().settle().await;
        match daemon {
            Some(daemon) => daemon.stop().await,
            None => Ok(()),
        }
    };
    stop.unless_asked(end).await
}

//! Progress for whoever watches: a table that is redrawn on a terminal, one
//! line a second elsewhere. Widths do not change while numbers grow.

use std::io::Write as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Where progress goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Watching {
    /// Nowhere.
    Nobody,
    /// A table on the terminal if standard error is one, else lines.
    #[default]
    Somebody,
}

/// One provider's numbers now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Line {
    /// Name.
    pub name: String,
    /// Accepted and not at an end.
    pub queued: u64,
    /// Delivered.
    pub delivered: u64,
    /// Deferrals.
    pub deferred: u64,
    /// Returned to the sender: bounced, expired or suppressed.
    pub returned: u64,
    /// Connections open.
    pub connections: u32,
}

/// Shows lines.
pub(crate) struct Progress {
    shape: Shape,
    last: Instant,
    /// Delivered at the last look, for rates.
    before: Vec<u64>,
}

enum Shape {
    Nothing,
    Lines,
    Table(ProgressBar),
}

/// How often anything is shown.
const PACE: Duration = Duration::from_secs(1);

impl Progress {
    /// For `providers` lines.
    pub(crate) fn new(watching: Watching, providers: usize) -> Self {
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let shape = match watching {
            Watching::Nobody => Shape::Nothing,
            Watching::Somebody if terminal => Shape::Table(table()),
            Watching::Somebody => Shape::Lines,
        };
        Self { shape, last: Instant::now(), before: vec![0; providers] }
    }

    /// Whether it is time to show something.
    pub(crate) fn due(&self) -> bool {
        !matches!(self.shape, Shape::Nothing) && self.last.elapsed() >= PACE
    }

    /// Shows where things stand.
    pub(crate) fn show(&mut self, elapsed: Duration, accepted: u64, lines: &[Line]) {
        let seconds = self.last.elapsed().as_secs_f64().max(0.001);
        self.last = Instant::now();
        let mut rates = Vec::with_capacity(lines.len());
        for (line, before) in lines.iter().zip(&mut self.before) {
            rates.push(((line.delivered.saturating_sub(*before)) as f64 / seconds).round() as u64);
            *before = line.delivered;
        }
        let sum = |get: &dyn Fn(&Line) -> u64| lines.iter().map(get).sum::<u64>();
        let all = Line {
            name: "all".to_owned(),
            queued: sum(&|line| line.queued),
            delivered: sum(&|line| line.delivered),
            deferred: sum(&|line| line.deferred),
            returned: sum(&|line| line.returned),
            connections: lines.iter().map(|line| line.connections).sum(),
        };
        let rate = rates.iter().sum::<u64>();
        match &self.shape {
            Shape::Nothing => {}
            Shape::Lines => {
                // A closed standard error must not end a rehearsal.
                let _ = writeln!(
                    std::io::stderr(),
                    "{:>4} s  accepted {accepted:>8}  queued {:>8}  delivered {:>8}  deferred {:>7}  returned {:>6}  {rate:>6}/s  connections {:>4}",
                    elapsed.as_secs(),
                    all.queued,
                    all.delivered,
                    all.deferred,
                    all.returned,
                    all.connections
                );
            }
            Shape::Table(bar) => {
                let mut text = format!(
                    "{:<12} {:>9} {:>9} {:>9} {:>9} {:>8} {:>6}",
                    format!("{:>4} s", elapsed.as_secs()),
                    "queued",
                    "delivered",
                    "deferred",
                    "returned",
                    "rate",
                    "open"
                );
                let rows = lines.iter().zip(&rates).map(|(line, rate)| (line, *rate)).chain([(&all, rate)]);
                for (line, rate) in rows {
                    text.push_str(&format!(
                        "\n{:<12} {:>9} {:>9} {:>9} {:>9} {:>6}/s {:>6}",
                        line.name, line.queued, line.delivered, line.deferred, line.returned, rate, line.connections
                    ));
                }
                // One message for the whole table: it is redrawn once, and does not flicker.
                bar.set_message(text);
                bar.tick();
            }
        }
    }

    /// Takes the table away, so that the summary stands alone.
    pub(crate) fn end(&self) {
        if let Shape::Table(bar) = &self.shape {
            bar.finish_and_clear();
        }
    }
}

fn table() -> ProgressBar {
    let style = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    ProgressBar::new_spinner().with_style(style)
}

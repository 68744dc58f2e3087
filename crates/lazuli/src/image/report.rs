//! What a long command shows while it works: a bar on a terminal, JSON lines otherwise.

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two JSON lines of a phase.
const EVERY: Duration = Duration::from_secs(1);

pub struct Report {
    /// On a terminal.
    bar: Option<ProgressBar>,
    last: Mutex<Option<(String, Instant)>>,
}

impl Report {
    pub fn new() -> Self {
        let bar = std::io::stdout().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            if let Ok(style) = ProgressStyle::with_template("{msg:10} {wide_bar} {bytes}/{total_bytes} {eta}") {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, last: Mutex::new(None) }
    }

    /// So many bytes of a phase are done; `total` is 0 where it is not known.
    pub fn bytes(&self, phase: &str, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_message(phase.to_owned());
            bar.set_length(total.max(done));
            bar.set_position(done);
        } else if self.due(phase) {
            println!("{}", json!({"event": "progress", "phase": phase, "doneBytes": done, "totalBytes": total}));
        }
    }

    pub fn percent(&self, phase: &str, percent: f64) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{phase} {percent:.0} %"));
        } else if self.due(phase) {
            println!("{}", json!({"event": "progress", "phase": phase, "percent": percent}));
        }
    }

    /// A line that scripts can read, in the midst of the work.
    pub fn line(&self, event: &Value) {
        println!("{event}");
    }

    /// The end, as a line that scripts can read.
    pub fn done(&self, event: &Value) {
        self.clear();
        println!("{event}");
    }

    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// The first line of a phase, then one a second.
    fn due(&self, phase: &str) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet = last.as_ref().is_some_and(|(name, at)| name == phase && at.elapsed() < EVERY);
        if !quiet {
            *last = Some((phase.to_owned(), Instant::now()));
        }
        !quiet
    }
}

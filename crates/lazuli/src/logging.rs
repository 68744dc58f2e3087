//! Log lines on stderr.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged is told by `LAZULI_LOG`; a filter that cannot be read is said and replaced by the default.
pub fn start(format: Format) {
    let wanted = std::env::var("LAZULI_LOG").unwrap_or_default();
    let default = || EnvFilter::new("info");
    let filter = if wanted.is_empty() {
        default()
    } else {
        EnvFilter::try_new(&wanted).unwrap_or_else(|error| {
            eprintln!("lazuli: LAZULI_LOG is not a log filter ({error}); using 'info'");
            default()
        })
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        Format::Text => {
            let color = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(color).init();
        }
        Format::Json => builder.json().flatten_event(true).init(),
    }
}

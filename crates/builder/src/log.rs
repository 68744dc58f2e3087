//! The log of a run: every line that a step says or its scripts print, in one format, without secrets.
//!
//! ```text
//! 2026-03-01T12:00:00.123Z [install nginx] out: Reading package lists...
//! 2026-03-01T12:00:03.456Z [install nginx] err: debconf: delaying package configuration
//! 2026-03-01T12:00:04.000Z [install nginx] --- ended with exit code 0 after 4.1 s
//! ```
//! `out` and `err` are what the machine prints, `---` is what this program says. A line holds no control characters and at most
//! [`MAX_LINE`] bytes of text; of a step [`MAX_STEP`] bytes are kept, and what is left out is counted.

use std::sync::Arc;

use jiff::Timestamp;

use crate::communicator::{Output, Stream};

/// Longer lines go on in the next one.
pub const MAX_LINE: usize = 8 * 1024;
/// Of one step's output.
pub const MAX_STEP: u64 = 16 << 20;
/// Secrets shorter than this cannot be told from ordinary words.
const SHORTEST_SECRET: usize = 4;
const MASK: &str = "********";

/// Takes finished lines, each with its end; must not wait.
pub trait Sink: Send + Sync {
    fn line(&self, line: &str);
}

/// A log that steps write to. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    sink: Arc<dyn Sink>,
    masker: Arc<Masker>,
}

impl Log {
    pub fn new(sink: Arc<dyn Sink>, masker: Masker) -> Self {
        Self { sink, masker: Arc::new(masker) }
    }

    /// What this program has to say about a step.
    pub fn say(&self, step: &str, text: &str) {
        for line in text.lines() {
            self.write(step, "---", line);
        }
    }

    /// Where the output of a step's commands goes.
    pub fn output(&self, step: &str) -> StepOutput {
        let (out, err) = (Lines::default(), Lines::default());
        StepOutput { log: self.clone(), step: step.to_owned(), out, err, kept: 0, left_out: 0 }
    }

    fn write(&self, step: &str, mark: &str, text: &str) {
        self.sink.line(&line(Timestamp::now(), step, mark, &self.masker.mask(text)));
    }
}

/// One line, as it is kept.
pub fn line(time: Timestamp, step: &str, mark: &str, text: &str) -> String {
    let time = time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ");
    let colon = if mark == "---" { "" } else { ":" };
    format!("{time} [{}] {mark}{colon} {}\n", printable(step), printable(text))
}

/// Without what would move a terminal's cursor.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// Makes lines of a command's output and writes them.
pub struct StepOutput {
    log: Log,
    step: String,
    out: Lines,
    err: Lines,
    kept: u64,
    left_out: u64,
}

impl Output for StepOutput {
    fn take(&mut self, stream: Stream, bytes: &[u8]) {
        let (lines, mark) = match stream {
            Stream::Out => (&mut self.out, "out"),
            Stream::Err => (&mut self.err, "err"),
        };
        if self.kept >= MAX_STEP {
            self.left_out += bytes.len() as u64;
            return;
        }
        self.kept += bytes.len() as u64;
        let (log, step) = (&self.log, &self.step);
        lines.push(bytes, |text| log.write(step, mark, text));
    }
}

impl StepOutput {
    /// Writes what came without a line's end, and how much was left out.
    pub fn finish(mut self) {
        let (log, step) = (&self.log, &self.step);
        self.out.finish(|text| log.write(step, "out", text));
        self.err.finish(|text| log.write(step, "err", text));
        if self.left_out > 0 {
            let text = format!("{} more bytes of output are not kept: a step's log has an end", self.left_out);
            self.log.say(&self.step, &text);
        }
    }
}

/// Cuts bytes into lines of bounded length.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn push(&mut self, bytes: &[u8], mut line: impl FnMut(&str)) {
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            let (text, ends) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            let mut text = text;
            while self.0.len() + text.len() > MAX_LINE {
                let (now, later) = text.split_at(MAX_LINE - self.0.len());
                self.0.extend_from_slice(now);
                self.finish(&mut line);
                text = later;
            }
            self.0.extend_from_slice(text);
            if ends {
                line(&self.text());
                self.0.clear();
            }
        }
    }

    fn finish(&mut self, mut line: impl FnMut(&str)) {
        if !self.0.is_empty() {
            line(&self.text());
            self.0.clear();
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).trim_end_matches('\r').to_owned()
    }
}

/// Makes secrets unreadable: those that it is told, and what URLs and connection strings hold.
#[derive(Debug, Clone, Default)]
pub struct Masker(Vec<String>);

/// What a secret follows, in any letter case, up to the next of [`ENDS`].
const BEFORE_SECRETS: [&str; 7] = [
    "sig=",
    "accountkey=",
    "sharedaccesssignature=",
    "sharedaccesskey=",
    "authorization: bearer ",
    "bearer ey",
    "client_secret=",
];
const ENDS: [char; 10] = ['&', ';', ' ', '"', '\'', '<', '>', ',', ')', '\t'];

impl Masker {
    pub fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let mut secrets: Vec<String> = secrets.into_iter().filter(|s| s.len() >= SHORTEST_SECRET).collect();
        // One may be in the other.
        secrets.sort_by_key(|s| std::cmp::Reverse(s.len()));
        Self(secrets)
    }

    pub fn mask(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.0 {
            if text.contains(secret) {
                text = text.replace(secret, MASK);
            }
        }
        for before in BEFORE_SECRETS {
            text = mask_after(text, before);
        }
        text
    }
}

fn mask_after(text: String, before: &str) -> String {
    let lower = text.to_ascii_lowercase();
    if !lower.contains(before) {
        return text;
    }
    let (mut masked, mut at) = (String::with_capacity(text.len()), 0);
    while let Some(found) = lower[at..].find(before) {
        let begin = at + found + before.len();
        let end = text[begin..].find(ENDS).map_or(text.len(), |end| begin + end);
        masked.push_str(&text[at..begin]);
        if end > begin {
            masked.push_str(MASK);
        }
        at = end;
    }
    masked.push_str(&text[at..]);
    masked
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Kept(Mutex<Vec<String>>);

    impl Sink for Kept {
        fn line(&self, line: &str) {
            self.0.lock().unwrap().push(line.to_owned());
        }
    }

    fn lines(feed: impl FnOnce(&mut StepOutput)) -> Vec<String> {
        let kept = Arc::new(Kept::default());
        let log = Log::new(kept.clone(), Masker::new(["hunter22".to_owned()]));
        let mut output = log.output("a step");
        feed(&mut output);
        output.finish();
        // Without the time.
        kept.0.lock().unwrap().iter().map(|l| l[25..].trim_end_matches('\n').to_owned()).collect()
    }

    #[test]
    fn a_line() {
        let line = line(Timestamp::UNIX_EPOCH, "install nginx", "out", "Reading\u{1b}[2J lists");
        assert_eq!(line, "1970-01-01T00:00:00.000Z [install nginx] out: Reading\u{fffd}[2J lists\n");
    }

    #[test]
    fn output_is_cut_into_lines_whatever_its_pieces() {
        let all = lines(|o| {
            o.take(Stream::Out, b"one\ntw");
            o.take(Stream::Err, b"oops\r\n");
            o.take(Stream::Out, b"o\n\nlast");
        });
        assert_eq!(
            all,
            ["[a step] out: one", "[a step] err: oops", "[a step] out: two", "[a step] out: ", "[a step] out: last"]
        );
    }

    #[test]
    fn long_and_binary_lines_are_bounded() {
        let all = lines(|o| o.take(Stream::Out, &vec![b'x'; MAX_LINE * 2 + 5]));
        assert_eq!(all.len(), 3);
        assert!(all.iter().all(|l| l.len() <= MAX_LINE + 20), "{}", all[0].len());
        let all = lines(|o| o.take(Stream::Out, &[0xff, 0, 7, b'a']));
        assert_eq!(all, ["[a step] out: \u{fffd}\u{fffd}\u{fffd}a"]);
    }

    #[test]
    fn endless_output_is_left_out_and_counted() {
        let line = [vec![b'x'; 1023], vec![b'\n']].concat();
        let chunk = line.repeat(64);
        let all = lines(|o| {
            for _ in 0..300 {
                o.take(Stream::Out, &chunk);
            }
        });
        let kept = MAX_STEP / 1024;
        assert_eq!(all.len() as u64, kept + 1);
        let left_out = 300 * chunk.len() as u64 - MAX_STEP;
        assert_eq!(
            *all.last().unwrap(),
            format!("[a step] --- {left_out} more bytes of output are not kept: a step's log has an end")
        );
    }

    #[test]
    fn secrets_are_masked() {
        let mask = |text: &str| Masker::new(["hunter22".to_owned(), "22".to_owned()]).mask(text);
        assert_eq!(mask("password hunter22!"), "password ********!");
        assert_eq!(mask("ab 22"), "ab 22", "too short to be told from a word");
        assert_eq!(mask("GET https://a/b?sv=1&sig=Zm9v%3D&se=2 done"), "GET https://a/b?sv=1&sig=********&se=2 done");
        assert_eq!(mask("AccountName=x;AccountKey=abc==;Endpoint=y"), "AccountName=x;AccountKey=********;Endpoint=y");
        assert_eq!(mask("authorization: Bearer eyJ0.a.b, Größe"), "authorization: Bearer ********, Größe");
        assert_eq!(mask("sig=a sig=b"), "sig=******** sig=********");
    }
}

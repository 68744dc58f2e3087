//! What the tests of all communicators keep: the log of a session, and what a command said.

use lazuli_builder::communicator::{Output, Stream};
use lazuli_builder::log::Sink;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Nothing here takes nearly as long.
pub const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
pub struct Kept(Mutex<Vec<String>>);

impl Sink for Kept {
    fn line(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}

impl Kept {
    pub fn all(&self) -> String {
        self.0.lock().unwrap().concat()
    }

    pub async fn until(&self, text: &str) {
        let begin = Instant::now();
        while !self.all().contains(text) {
            assert!(begin.elapsed() < PATIENCE, "the log never says '{text}': {}", self.all());
            tokio::task::yield_now().await;
        }
    }
}

#[derive(Default)]
pub struct Collected {
    pub out: Vec<u8>,
    pub err: Vec<u8>,
}

impl Output for Collected {
    fn take(&mut self, stream: Stream, bytes: &[u8]) {
        match stream {
            Stream::Out => self.out.extend_from_slice(bytes),
            Stream::Err => self.err.extend_from_slice(bytes),
        }
    }
}

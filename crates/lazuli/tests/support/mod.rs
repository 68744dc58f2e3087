//! What the tests that kill processes share.

use std::process::Command;
use std::time::Duration;
use uuid::Uuid;

/// splitmix64: random enough for moments and for bytes that do not compress.
pub struct Random(u64);

impl Random {
    /// From `LAZULI_CRASH_SEED`, or else a seed that is printed. `test` keeps the tests of a run from making the same choices.
    pub fn seeded(test: u64) -> Self {
        let seed = match std::env::var("LAZULI_CRASH_SEED") {
            Ok(text) => text.parse().expect("LAZULI_CRASH_SEED is a number"),
            Err(_) => Uuid::new_v4().as_u64_pair().0,
        };
        eprintln!("LAZULI_CRASH_SEED={seed}");
        Self(seed ^ test)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn within(&mut self, from: Duration, to: Duration) -> Duration {
        let span = u64::try_from((to - from).as_micros()).unwrap().max(1);
        from + Duration::from_micros(self.next() % span)
    }
}

/// `kill -9` of the host process of this folder; its guests run on.
pub async fn kill_host(server: &lazuli_testkit::TestServer) {
    let client = lazuli_vmm::HostClient::new(server.dir().join("host/host.sock"));
    let pid = client.info().await.expect("the host process outlives the server").pid;
    assert!(Command::new("kill").arg("-9").arg(pid.to_string()).status().unwrap().success());
}

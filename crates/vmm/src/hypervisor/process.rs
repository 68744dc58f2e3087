//! A process that need not be our child: waited for and killed through a pidfd, so that a recycled pid is never hit.

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

#[derive(Debug)]
pub struct Process {
    pid: i32,
    fd: AsyncFd<OwnedFd>,
}

impl Process {
    /// Must be called within a tokio runtime. Fails if there is no such process (any more).
    pub fn open(pid: i32) -> io::Result<Self> {
        let raw = Pid::from_raw(pid).ok_or_else(|| io::Error::other("a process id must be positive"))?;
        let fd = pidfd_open(raw, PidfdFlags::empty())?;
        // SAFETY: an OwnedFd is open, names the same description for as long as it lives and always returns the same
        // number; the AsyncFd owns it and nothing takes it out again.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        Ok(Self { pid, fd })
    }

    /// A process whose command line (arguments, each with a zero behind it) is such a one. One that has ended, but was not
    /// reaped, has none any more.
    pub fn find(is_it: impl Fn(&[u8]) -> bool) -> Option<Self> {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut pids = entries.filter_map(|entry| {
            let found = is_it(&std::fs::read(entry.path().join("cmdline")).ok()?);
            if found { entry.file_name().to_str()?.parse().ok() } else { None }
        });
        // Looked at again once the process is pinned: its pid may have been given to another.
        pids.find_map(|pid| Self::open(pid).ok().filter(|process| is_it(&process.command_line())))
    }

    /// Returns once the process has ended (a child may still have to be reaped).
    pub async fn ended(&self) -> io::Result<()> {
        // A pidfd becomes readable when the process ends and stays so; the readiness is not cleared.
        let mut guard = self.fd.readable().await?;
        guard.retain_ready();
        Ok(())
    }

    /// SIGKILL; of a process that is gone: nothing.
    pub fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    /// SIGTERM; of a process that is gone: nothing.
    pub fn terminate(&self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(self.fd.get_ref(), signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Its arguments, each with a zero behind it; empty if it has ended.
    pub fn command_line(&self) -> Vec<u8> {
        std::fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default()
    }

    /// Memory it occupies now, in MiB; 0 if that cannot be learned.
    pub fn resident_mib(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        super::qemu::kib_of(&text, "VmRSS:").unwrap_or(0) / 1024
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_killed_process_ends() {
        let mut child = tokio::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::open(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
        assert!(process.resident_mib() < 1000);
        process.kill().unwrap();
        process.ended().await.unwrap();
        process.ended().await.unwrap();
        child.wait().await.unwrap();
        process.kill().unwrap();
    }
}

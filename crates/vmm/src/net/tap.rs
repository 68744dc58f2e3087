//! A tap device: a port of a bridge of this computer whose other end is this process. It is the only file that asks the kernel about
//! network devices.
//!
//! A port that is made here goes with the process, whatever ends it. It must never change what it did not make: neither the bridge nor a
//! tap device that the operator has made.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use rustix::net::{AddressFamily, SocketType};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use uuid::Uuid;

use super::error::UplinkError;

const TUN: &str = "/dev/net/tun";
/// The kernel puts the first free number for `%d`.
const PATTERN: &str = "lazuli%d";

// linux/if_tun.h, linux/sockios.h, linux/if.h and linux/if_arp.h
const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
const SIOCGIFFLAGS: Opcode = 0x8913;
const SIOCSIFFLAGS: Opcode = 0x8914;
const SIOCSIFHWADDR: Opcode = 0x8924;
const SIOCGIFINDEX: Opcode = 0x8933;
const SIOCBRADDIF: Opcode = 0x89a2;
const IFF_UP: u16 = 1;
const IFF_TAP: u16 = 2;
const IFF_NO_PI: u16 = 0x1000;
const ARPHRD_ETHER: u16 = 1;

/// The kernel's `struct ifreq`: a device's name, zero-terminated, and 24 bytes whose meaning depends on the request.
#[repr(C, align(8))]
struct Request {
    name: [u8; 16],
    value: [u8; 24],
}

impl Request {
    fn new(name: &str, value: &[u8]) -> Request {
        let mut request = Request { name: [0; 16], value: [0; 24] };
        let name = &name.as_bytes()[..name.len().min(15)];
        request.name[..name.len()].copy_from_slice(name);
        request.value[..value.len()].copy_from_slice(value);
        request
    }

    fn name(&self) -> String {
        let end = self.name.iter().position(|b| *b == 0).unwrap_or(self.name.len());
        String::from_utf8_lossy(&self.name[..end]).into_owned()
    }

    fn flags(&self) -> u16 {
        u16::from_ne_bytes([self.value[0], self.value[1]])
    }

    fn ask<const OPCODE: Opcode>(mut self, fd: impl AsFd) -> Result<Request, Errno> {
        // SAFETY: every request of this module reads and writes one `struct ifreq`, whose size and layout `Request` has, and keeps no
        // pointer to it.
        unsafe { ioctl(fd, Updater::<OPCODE, Request>::new(&mut self)) }?;
        Ok(self)
    }
}

#[derive(Debug)]
pub(super) struct Tap {
    pub(super) name: String,
    fd: AsyncFd<OwnedFd>,
}

impl Tap {
    /// Makes a port of a bridge.
    pub(super) fn on_bridge(bridge: &str) -> Result<Tap, UplinkError> {
        let refused = |source: Errno| UplinkError::Device { device: bridge.to_owned(), source: source.into() };
        let permitted = |source: Errno| match source {
            Errno::PERM | Errno::ACCESS => {
                UplinkError::NotPermitted { bridge: bridge.to_owned(), source: source.into() }
            }
            source => refused(source),
        };
        let devices = devices().map_err(refused)?;
        exists(&devices, bridge).map_err(|source| match source {
            Errno::NODEV => UplinkError::NoBridge { bridge: bridge.to_owned() },
            source => refused(source),
        })?;
        let (fd, name) = attach(PATTERN)?.map_err(permitted)?;
        // A bridge that nobody gave an address bears the lowest of its ports'; this one must not become it.
        let random = *Uuid::new_v4().as_bytes();
        let address = [0xfe, random[0], random[1], random[2], random[3], random[4]];
        let value = [&ARPHRD_ETHER.to_ne_bytes()[..], &address].concat();
        Request::new(&name, &value).ask::<SIOCSIFHWADDR>(&devices).map_err(permitted)?;
        let index = exists(&devices, &name).map_err(refused)?;
        Request::new(bridge, &index).ask::<SIOCBRADDIF>(&devices).map_err(|source| match source {
            Errno::OPNOTSUPP | Errno::INVAL => UplinkError::NotABridge { bridge: bridge.to_owned() },
            source => permitted(source),
        })?;
        let flags = Request::new(&name, &[]).ask::<SIOCGIFFLAGS>(&devices).map_err(refused)?.flags() | IFF_UP;
        Request::new(&name, &flags.to_ne_bytes()).ask::<SIOCSIFFLAGS>(&devices).map_err(permitted)?;
        Tap::serve(fd, name)
    }

    /// Takes a tap device that the operator has made, on the LAN and for this user.
    pub(super) fn existing(tap: &str) -> Result<Tap, UplinkError> {
        let refused = |source: Errno| UplinkError::Device { device: tap.to_owned(), source: source.into() };
        let devices = devices().map_err(refused)?;
        // The kernel would make one that is not there, if it may.
        let found = Request::new(tap, &[]).ask::<SIOCGIFFLAGS>(&devices).map_err(|source| match source {
            Errno::NODEV => UplinkError::NoTap { tap: tap.to_owned() },
            source => refused(source),
        })?;
        if found.flags() & IFF_UP == 0 {
            return Err(UplinkError::Down { tap: tap.to_owned() });
        }
        let (fd, name) = attach(tap)?.map_err(|source| match source {
            Errno::PERM => UplinkError::NotMine { tap: tap.to_owned() },
            Errno::BUSY => UplinkError::Busy { tap: tap.to_owned() },
            Errno::INVAL => UplinkError::NotATap { tap: tap.to_owned() },
            source => refused(source),
        })?;
        Tap::serve(fd, name)
    }

    fn serve(fd: OwnedFd, name: String) -> Result<Tap, UplinkError> {
        // SAFETY: an OwnedFd is open, names the same description for as long as it lives and always returns the same
        // number; the AsyncFd owns it and nothing takes it out again.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE | Interest::WRITABLE) };
        let fd = fd.map_err(|e| UplinkError::Device { device: name.clone(), source: e.into() })?;
        Ok(Tap { name, fd })
    }

    /// The next frame. One that is longer than `buffer` is cut.
    pub(super) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.fd.readable().await?;
            if let Ok(result) = ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut *buffer)?)) {
                return result;
            }
        }
    }

    pub(super) async fn write(&self, frame: &[u8]) -> io::Result<()> {
        loop {
            let mut ready = self.fd.writable().await?;
            if let Ok(result) = ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), frame)?)) {
                return result.map(drop);
            }
        }
    }
}

/// Any socket does to ask about devices.
fn devices() -> Result<OwnedFd, Errno> {
    rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)
}

/// The device's index, as the kernel has it in memory.
fn exists(devices: &OwnedFd, name: &str) -> Result<[u8; 4], Errno> {
    let answer = Request::new(name, &[]).ask::<SIOCGIFINDEX>(devices)?;
    let [a, b, c, d, ..] = answer.value;
    Ok([a, b, c, d])
}

/// The end of a tap device that is this process's, and its name. The outer error is that of the way to all of them.
fn attach(name: &str) -> Result<Result<(OwnedFd, String), Errno>, UplinkError> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd =
        rustix::fs::open(TUN, flags, Mode::empty()).map_err(|source| UplinkError::NoTun { source: source.into() })?;
    let request = Request::new(name, &(IFF_TAP | IFF_NO_PI).to_ne_bytes());
    Ok(request.ask::<TUNSETIFF>(&fd).map(|answer| (fd, answer.name())))
}

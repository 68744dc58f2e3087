//! Test helpers: a running server, actors, guests, waits. Serves tests alone.

#[cfg(feature = "server")]
pub mod arm;
#[cfg(feature = "server")]
pub mod blob;
pub mod guests;
#[cfg(feature = "server")]
pub mod machines;
pub mod postgres;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod wait;

#[cfg(feature = "server")]
pub use arm::{Arm, ArmFailure, Reply};
#[cfg(feature = "server")]
pub use machines::MachineSite;
#[cfg(feature = "server")]
pub use server::{TestServer, last_lines};
#[cfg(feature = "server")]
pub use wait::wait_for;

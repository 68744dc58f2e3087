//! Customizes a machine that is to become an image: steps over a connection, their log, and what is found in the image.
//!
//! ```text
//!            Connect ──▶ Communicator (ssh, winrm)      Log ◀── lines of every step, masked, with time and stream
//!               │             │                          ▲
//!   Session ────┴─────────────┴── steps: script, file, restart, deprovision; those of Windows
//!                                 inventory ──▶ sbom (CycloneDX) ──▶ provenance (in-toto, DSSE)
//! ```
//! It knows neither templates nor resources: the engine decides what is run, makes the machine, and gives the connection.
//!
//! What it must never do: hold more of a script's output than a bounded part, whatever the script prints; wait for ever for a
//! machine that is gone; let a secret that it was told of into the log.

pub mod communicator;
pub mod inventory;
pub mod log;
pub mod provenance;
pub mod sbom;
pub mod step;

pub use communicator::{Communicator, CommunicatorError, Connect, Exit, Stream};
pub use step::{Session, StepError};

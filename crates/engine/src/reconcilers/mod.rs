//! Loops that make the world look as the rows say. Each takes no input, may run at any time and any number of times, and is
//! woken by a signal and by a timer, so that a lost signal costs time and nothing else.

pub(crate) mod activity_log;
pub(crate) mod garbage;
pub(crate) mod grants;
pub(crate) mod image_triggers;
pub(crate) mod network;
pub(crate) mod signing_keys;
pub(crate) mod soft_deleted;

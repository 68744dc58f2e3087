//! Sockets, TLS and names: everything below HTTP.

pub mod ca;
pub mod hosts;
pub mod proxy;
pub mod server;
pub mod websocket;

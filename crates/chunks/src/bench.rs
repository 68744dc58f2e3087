//! Measuring the store alone, without a server.

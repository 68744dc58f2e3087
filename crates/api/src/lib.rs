//! The HTTPS edge: ARM dispatch, tokens, blob data plane, proxy.

//! The product: resource providers, long-running operations, reconcilers.

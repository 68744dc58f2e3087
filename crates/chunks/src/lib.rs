//! Content store: chunks, packs, manifests, replication.

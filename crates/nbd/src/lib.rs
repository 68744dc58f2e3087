//! Network Block Device: codec, server, client.

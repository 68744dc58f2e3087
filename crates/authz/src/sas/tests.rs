//! What azure-storage-blob signs is believed, and nothing else.

"""Files that clients upload or batches write: content that is truth, kept in the log."""

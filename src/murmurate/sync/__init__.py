"""Sessions: conversations that are kept, as entries of the log."""

"""SQLite: the log (truth.db) and the telemetry (telemetry.db) of an embedded platform."""

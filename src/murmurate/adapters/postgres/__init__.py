"""PostgreSQL: the log of a platform whose servers share it. Needs the extra `postgres`."""

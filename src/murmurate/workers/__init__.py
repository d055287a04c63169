"""The processes: `python -m murmurate.workers.NAME`, each started by the supervisor."""

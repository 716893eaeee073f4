"""What others watch runs by: logs, metrics, lineage, messages. See `jobs.observe.run`."""

"""What training can start from: snapshots in memory, checkpoints, another model's weights."""

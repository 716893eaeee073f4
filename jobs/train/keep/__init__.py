"""What training keeps to go on from: snapshots, checkpoints, commits, another run's weights."""

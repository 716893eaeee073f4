"""Shards to batches: row groups are read by Petastorm, and their rows put in the epoch's order."""

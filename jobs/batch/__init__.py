"""Batches of tensors, and the one conversion from Arrow to them that all readers use."""

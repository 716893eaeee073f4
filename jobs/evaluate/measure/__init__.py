"""Metrics of scored rows, exact at any size, by slice, with margins."""

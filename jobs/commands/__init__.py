"""The commands: their arguments, and which job each of them runs."""

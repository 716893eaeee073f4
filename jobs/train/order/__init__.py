"""The order in which rows reach the ranks: pure functions of counts, seed and epoch."""

"""Requests: tensors and rows as clients write them, and what is wrong with them."""

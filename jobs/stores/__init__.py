"""Stores: what a lake needs of one (`store.py`), and how each kind gives it."""

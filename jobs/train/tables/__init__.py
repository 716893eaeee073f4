"""Embedding tables of which each rank holds a piece, and nobody the whole."""

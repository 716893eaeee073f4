"""Where the rows of embedding tables are: in buckets, in pieces, in files."""

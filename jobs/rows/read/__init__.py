"""Raw files to tables of texts: listed, cut into pieces, read, parsed."""

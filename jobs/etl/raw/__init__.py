"""Raw files of a pass: where they are, which there are."""

"""Which models there are, which one is the champion, and how it became that."""

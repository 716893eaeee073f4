"""The lake: tables and their commits, files on any store, locks, the record of what was made."""

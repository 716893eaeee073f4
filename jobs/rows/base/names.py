"""Names of the columns that every row has besides the declared ones.

In tables that a declaration's expressions see, ours begin with two underscores, which no declared
column may.
"""

from __future__ import annotations

RAW, SOURCE_FILE, REASONS, DS, SPLIT = "raw", "source_file", "reasons", "ds", "split"
UNDATED = "undated"
LABEL_ABSENT, DUPLICATE_KEY = "label_absent", "duplicate_key"

# Of judged rows without a key, see `jobs.rows.judge.identity.line_hashes`.
LINE_HASH = "__line_hash"

# Of tables of raw rows.
ROW_TEXT, ROW_FILE, ROW_DS = "__text", "__file", "__ds"
# Reasons that reading gives, each a column of booleans.
ENCODING, MALFORMED, REPEATED_HEADER = "encoding", "malformed", "repeated_header"
MARKS = (ENCODING, MALFORMED, REPEATED_HEADER)
# The row's values are not known, so that no rule of a column can judge them.
UNREAD = "__unread"


def mark(reason: str) -> str:
    """The column of booleans that says where reading found a reason."""
    return f"__{reason}"

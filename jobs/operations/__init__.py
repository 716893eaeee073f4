"""Operations on the tables of a lake: vacuum, retention, compact, erase."""

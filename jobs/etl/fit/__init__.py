"""What train rows teach: contributions by date, the id log, states; and what a date must keep."""

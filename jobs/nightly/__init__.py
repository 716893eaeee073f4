"""The night: what any scheduler calls with a date, again and again if it likes."""

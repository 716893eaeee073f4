"""What all of the engine shares: names of columns, types, arrays, the database in process."""

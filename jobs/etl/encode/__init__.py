"""Values to ids."""

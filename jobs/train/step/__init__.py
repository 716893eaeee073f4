"""One step, and the loop over steps and epochs. It knows torch alone."""

"""One training step, and the loop over steps and epochs. Of the libraries it uses torch alone."""

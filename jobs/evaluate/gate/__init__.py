"""Whether a model may become the champion."""

"""The search for training's settings: the same trials on any cluster, after any kill."""

"""Ways to give the noise of a weight to outputs: one a file."""

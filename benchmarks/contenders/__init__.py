"""Ways to run a problem, one a file: by hand, in Pyro, in NumPyro, and ours."""

"""Networks as Pyro programs."""

"""A step recorded once as a graph of tensor operations, and replayed without Pyro."""

"""Distributions that Pyro has not."""

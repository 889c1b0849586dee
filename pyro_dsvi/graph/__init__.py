"""Nodes, influence, credit and the surrogate: the stochastic computation graph of a step."""

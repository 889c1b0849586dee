"""Layers as bilinear maps of an input and a weight: one a file."""

"""Random tensors that are not drawn until they have to be."""

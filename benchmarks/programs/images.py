"""Binary images of 28 × 28 pixels with their labels: scikit-learn's digits, enlarged."""

import numpy as np
from sklearn.datasets import load_digits


def images(number: int) -> tuple[np.ndarray, np.ndarray]:
    """The first images, as rows of 784 zeros and ones, and their labels.

    A pixel of the 8 × 8 originals becomes 3 × 3, in a frame of 2; it is on where at least half of
    it is inked.
    """
    small, labels = load_digits(return_X_y=True)
    on = (small[:number].reshape(-1, 8, 8) >= 8).astype(np.float32)
    large = np.pad(on.repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (2, 2), (2, 2)))
    return large.reshape(len(large), 784), labels[:number]


def layer(random: np.random.Generator, inputs: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """First weights and biases of a linear layer, as torch draws them."""
    bound = inputs**-0.5
    weight = random.uniform(-bound, bound, (outputs, inputs))
    bias = random.uniform(-bound, bound, outputs)
    return weight.astype(np.float32), bias.astype(np.float32)

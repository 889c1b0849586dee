"""A draw that is made once for each joint value of enumerated sites upstream of it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pyro.ops import packed
from torch import Tensor

from pyro_dsvi.graph.packing import letters_of


@dataclass(eq=False)
class Branch:
    """What each of the draws answers for, and with which weight it adds to the gradient.

    Arranged tensors have shape ``[rows, branches, *plates]``: the joint values of the enumerated
    sites lie side by side, like the elements of a plate.

    Attributes:
        credit: conditional expectation in nats of the costs that a draw reaches, packed.
        share: probability of the enumerated values that it was drawn for, packed.
        letters: the letter of each dimension of the program's tensors.
        sites: letters of the enumerated sites, and how many values each has.
        particles: letter of the particles.
    """

    credit: Tensor
    share: Tensor
    letters: Mapping[int, str]
    sites: tuple[tuple[str, int], ...]
    particles: str

    def arrange(self, x: Tensor, rows: int, depth: int) -> Tensor:
        """A tensor in the program's batch shape, as ``[rows, branches, *plates]``."""
        return self.spread(packed.pack(x, self.letters), rows, depth)

    def spread(self, x: Tensor, rows: int, depth: int) -> Tensor:
        """A packed tensor, as ``[rows, branches, *plates]``.

        Args:
            x: the tensor.
            rows: particles of the run.
            depth: number of plate axes.
        """
        plates = [self.letters.get(dim) for dim in range(-depth, 0)]
        order = [self.particles, *(letter for letter, _ in self.sites), *plates]
        sizes = dict(zip(letters_of(x), x.shape, strict=True))
        x = x.permute([list(sizes).index(letter) for letter in order if letter in sizes])
        x = x.reshape([sizes.get(letter, 1) if letter else 1 for letter in order])
        branches = [size for _, size in self.sites]
        x = x.expand(rows, *branches, *x.shape[1 + len(branches) :])
        return x.reshape(rows, torch.Size(branches).numel(), *x.shape[1 + len(branches) :])

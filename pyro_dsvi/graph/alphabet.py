"""A letter for each tensor dimension, so that a sum over enumerated sites is an ``einsum``.

One letter stands for one plate, one enumerated site or the particles throughout a run, even where
dimensions are used again, as ``pyro.markov`` does.
"""

from collections.abc import Iterable, Mapping

from opt_einsum import get_symbol
from pyro.ops import packed
from torch import Tensor

from pyro_dsvi.graph.nodes import PARTICLES, Cost, Latent, Run
from pyro_dsvi.graph.packing import letters_of


class Alphabet:
    """The letters of a run's dimensions.

    Args:
        run: the run.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._letters: dict[object, str] = {}

    def letter(self, key: int | str) -> str:
        """The letter of an enumerated site, by its number, or of a plate, by its name."""
        return self._letters.setdefault(key, get_symbol(len(self._letters)))

    def ordinal(self, plates: Iterable[str]) -> frozenset[str]:
        """The letters of plates, that of the particles among them."""
        own = [] if self.run.nesting is None else [PARTICLES]
        return frozenset(self.letter(name) for name in (*plates, *own))

    def letters(self, plates: Iterable[str], dims: Mapping[int, int]) -> dict[int, str]:
        """The letter of each dimension of a tensor.

        Args:
            plates: names of its plates.
            dims: numbers of enumerated sites by dimension.
        """
        letters = {dim: self.letter(site) for dim, site in dims.items()}
        letters.update((self.run.plates[name].dim, self.letter(name)) for name in plates)
        if self.run.nesting is not None:
            letters[-1 - self.run.nesting] = self.letter(PARTICLES)
        return letters

    def pack(self, x: Tensor, of: Cost | Latent) -> Tensor:
        """A tensor in a program's batch shape, packed."""
        return self.pack_site(x, of.plates, of.dims)

    def pack_site(self, x: Tensor, plates: Iterable[str], dims: Mapping[int, int]) -> Tensor:
        """A tensor in the batch shape of a site in these plates, packed."""
        return packed.pack(x, self.letters(plates, dims))

    def dims_of(self, x: Tensor) -> dict[int, int]:
        """Dimensions left of all plates for the enumerated sites of a packed tensor."""
        numbers = {self.letter(key): key for key in list(self._letters) if isinstance(key, int)}
        mine = [numbers[letter] for letter in letters_of(x) if letter in numbers]
        plates = max((-plate.dim for plate in self.run.plates.values()), default=0)
        if self.run.nesting is not None:
            plates = self.run.nesting + 1
        return {-1 - plates - i: number for i, number in enumerate(sorted(mine))}

    def unpack(self, x: Tensor, plates: Iterable[str], dims: Mapping[int, int]) -> Tensor:
        """A packed tensor in a program's batch shape."""
        letters = self.letters(plates, dims)
        return packed.unpack(x, {letter: dim for dim, letter in letters.items()})

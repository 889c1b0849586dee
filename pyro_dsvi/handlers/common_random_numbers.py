r"""Common random numbers: two estimates with the same noise, whose difference is of less variance.

.. math:: \mathrm{Var}[\hat a - \hat b]
    = \mathrm{Var}[\hat a] + \mathrm{Var}[\hat b] - 2\,\mathrm{Cov}[\hat a, \hat b]

Noise belongs to a site: it is seeded by the handler's seed, the site's name and the particle.  So
a program that gains or loses a site keeps the noise at all the others.  Steps under one handler
have the same noise as well, which makes of an objective a deterministic function of its parameters.

References:
    :cite:p:`glasserman1992crn`, :cite:p:`giordano2024dadvi`
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from numbers import Integral
from typing import Any

import torch
from pyro.poutine.messenger import Messenger

from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.passes.record import running
from pyro_dsvi.passes.sample import Sample


class CommonRandomNumbers(Messenger):
    """Seeds every draw by itself; see :func:`common_random_numbers`."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self._visits: Counter[str] = Counter()
        self._all = ExitStack()
        self._sites: list[Any] = []

    def __enter__(self) -> "CommonRandomNumbers":
        super().__enter__()
        self._visits.clear()
        # What is drawn at no site, and by estimators with a draw of their own, comes from here.
        self._all.enter_context(_seeded(self._key("", _particle() or 0)))
        return self

    def __exit__(self, *error: Any) -> None:
        while self._sites:
            self._restore()
        self._all.close()
        super().__exit__(*error)

    def _pyro_sample(self, msg: Any) -> None:
        if msg["done"] or msg["is_observed"] or msg["value"] is not None:
            return
        name = msg["name"]
        index = _particle()
        if index is None:
            index = self._visits[name]
            self._visits[name] += 1
        # Ended once all handlers further out, and Pyro, have had the chance to draw.
        fork = _seeded(self._key(name, index))
        fork.__enter__()
        self._sites.append((msg, fork))

    def _pyro_post_sample(self, msg: Any) -> None:
        if self._sites and self._sites[-1][0] is msg:
            self._restore()

    def _restore(self) -> None:
        _, fork = self._sites.pop()
        fork.__exit__(None, None, None)

    def _key(self, site: str, index: int) -> int:
        text = f"{self.seed}/{index}/{site}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def _particle() -> int | None:
    """The particle being drawn, where one of our objectives runs the guide."""
    record = running()
    return record.particle if isinstance(record, Sample) else None


@contextmanager
def _seeded(key: int) -> Iterator[None]:
    """Seed torch's generators, and put them back at the end.

    Generators of devices that are not in use are left alone: seeding them would be remembered
    until they are.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(key)
        if devices:
            torch.cuda.manual_seed_all(key)
        yield


def common_random_numbers(seed: int) -> CommonRandomNumbers:
    """Give every execution the same noise, and leave the outer random stream untouched.

    A handler: around steps, ``with common_random_numbers(0): ...``, or around a program,
    ``common_random_numbers(0)(guide)``.  Each draw at a sample site, reparameterised or not, is
    seeded by the site's name and the particle.  Under an objective of this package every step has
    the same noise; elsewhere every entrance of the handler does, where a site that comes again
    counts on.  The minibatch of a plate is drawn at a site too: steps under one handler see the
    same one.  Noise from elsewhere in a program comes from one stream that starts at the entrance.

    Particles side by side draw one tensor, particles in a loop one each: the two differ.

    Args:
        seed: a whole number.

    Returns:
        The context manager, which can be used again and also wraps a program.

    Raises:
        InvalidArgument: if the seed is no whole number.

    References:
        :cite:p:`glasserman1992crn`

    Example:
        >>> import pyro, torch, pyro.distributions as dist, pyro_dsvi as dsvi
        >>> def model():
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(1.0))
        >>> def guide():
        ...     pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.0)), 1.0))
        >>> same = dsvi.handlers.common_random_numbers(0)
        >>> with same:
        ...     elbo = dsvi.PathwiseELBO().loss(model, guide)
        >>> with same:
        ...     elbo == dsvi.STL().loss(model, guide)
        True
    """
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        raise InvalidArgument(f"common_random_numbers: seed must be a whole number, got {seed!r}")
    return CommonRandomNumbers(int(seed))

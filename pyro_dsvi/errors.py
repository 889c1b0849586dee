"""Every error and warning the package raises by itself, and the check that most arguments need.

All errors derive from :class:`DSVIError`, which is a ``ValueError``: code that guards a Pyro
program with ``except ValueError`` keeps working.  A message names the site (or plate, or
argument), says what was found, and says what to do.
"""

import math
from numbers import Integral
from typing import Any


class DSVIError(ValueError):
    """Base of every error of this package."""


class InvalidArgument(DSVIError):
    """An argument of a public function or class has a value that cannot work."""


class IncompatibleSite(DSVIError):
    """A site's distribution, estimator and bound cannot be used together."""


class SiteMismatch(DSVIError):
    """Model and guide disagree on the latent sites, or on a site's shape."""


class EmptyPlate(DSVIError):
    """A plate has no element, so neither the bound nor its scale is defined."""


class NoReference(DSVIError):
    """There is neither an exact gradient to compare with nor a second estimator of it."""


class UnknownNode(DSVIError, KeyError):
    """A computation graph has no node of that name."""

    def __str__(self) -> str:  # KeyError would show the message's repr
        return str(self.args[0])


class DSVIWarning(UserWarning):
    """Base of every warning of this package; each is given once per objective or handler."""


class PlatesMergedWarning(DSVIWarning):
    """A K-sample bound ties the elements of a plate together."""


class NotABoundWarning(DSVIWarning):
    """The estimated quantity is not a lower bound on the log evidence."""


class MinibatchBiasWarning(DSVIWarning):
    """The estimate from minibatches has another expectation than the whole data's bound."""


class LoopedParticlesWarning(DSVIWarning):
    """The program does not broadcast over particles, which are drawn in a loop instead."""


class NotCompiledWarning(DSVIWarning):
    """A step is not compiled, or not wholly; it is right all the same, but slower."""


class BiasedEstimatorWarning(DSVIWarning):
    """An estimator in use is biased."""


class DependentParticlesWarning(DSVIWarning):
    """Particles depend on one another, which changes the value of a K-sample bound."""


class UncontrolledNoiseWarning(DSVIWarning):
    """A handler of noise leaves a site as it is."""


class PlainPictureWarning(DSVIWarning):
    """A graph was drawn without graphviz, for want of it."""


def check_whole(
    what: str, number: Any, least: int, most: int | None = None, *, or_none: bool = False
) -> None:
    """Refuse what is not a whole number in a range.

    Args:
        what: whose argument it is, and its name, for the message.
        number: what was given.
        least: the smallest that works.
        most: the largest, if there is one.
        or_none: whether None works as well.

    Raises:
        InvalidArgument: if it is none; True and False are none.
    """
    if or_none and number is None:
        return
    whole = isinstance(number, Integral) and not isinstance(number, bool)
    if not whole or not least <= int(number) <= (math.inf if most is None else most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InvalidArgument(
            f"{what} must be {'None or ' * or_none}a whole number {bounds}, got {number!r}"
        )

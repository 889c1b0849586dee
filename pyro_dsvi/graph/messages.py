"""What the message of one sample site says, once the site has its value."""

from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions.unit import Unit
from pyro.distributions.util import scale_and_mask
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pyro_dsvi.errors import IncompatibleSite, SiteMismatch
from pyro_dsvi.estimators import Estimator
from pyro_dsvi.estimators.densities import log_prob
from pyro_dsvi.estimators.law import is_point_mass
from pyro_dsvi.estimators.relaxation import extended_log_prob
from pyro_dsvi.lazy import Undrawn


def log_density(msg: Any, estimator: Estimator | None = None) -> Tensor:
    """Log density of a site at its value, in nats, neither scaled nor masked.

    Args:
        msg: the site's message, in either program.
        estimator: the estimator by which its value was drawn, or None.
    """
    try:
        if estimator is not None and estimator.relaxes:
            return extended_log_prob(msg["fn"], msg["value"])
        if msg["args"] or msg["kwargs"]:
            return msg["fn"].log_prob(msg["value"], *msg["args"], **msg["kwargs"])
        return log_prob(msg["fn"], point_of_density(msg["fn"], msg["value"]))
    except IncompatibleSite as error:
        raise IncompatibleSite(f"site {msg['name']!r}: {error}") from error
    except ValueError as error:
        raise ValueError(f"site {msg['name']!r}: {error}") from error


def point_of_density(law: Any, value: Any) -> Any:
    """Where a log density is to be taken: at the value, or at what stands for one undrawn."""
    return value.in_density() if type(value) is Undrawn and not is_point_mass(law) else value


def weighed(log_density: Tensor, msg: Any) -> Tensor:
    """The log density as it enters the log weight: scaled and masked."""
    scale, mask = msg["scale"], msg["mask"]
    if mask is None and type(scale) is float and scale == 1.0:
        return log_density
    return scale_and_mask(log_density, scale, mask)


def is_silent(msg: Any) -> bool:
    """Whether the whole site is masked out, as ``pyro.deterministic`` sites are."""
    return msg["mask"] is False or getattr(msg["fn"], "_mask", None) is False


def whole_mask(msg: Any) -> Any:
    """The site's mask and its distribution's, as one."""
    own = getattr(msg["fn"], "_mask", None)
    if own is None or own is True:
        return msg["mask"]
    return own if msg["mask"] is None or msg["mask"] is True else own & msg["mask"]


def is_draw_from_outside(msg: Any) -> bool:
    """Whether a factor of the guide is the density of a draw without reparameterisation.

    Raises:
        SiteMismatch: if the factor does not say.
    """
    if not isinstance(msg["fn"], Unit):
        return False
    if "has_rsample" not in vars(msg["fn"]):
        raise SiteMismatch(
            f"site {msg['name']!r}: a factor in the guide must say where it comes from; "
            "pass has_rsample=True to pyro.factor if it comes from a reparameterised draw, "
            "has_rsample=False if not"
        )
    return not msg["fn"].has_rsample


def declared(msg: Any, value: Tensor) -> Tensor:
    """Check that every batch dimension of a log density belongs to a plate or enumerated site.

    Raises:
        SiteMismatch: if one does not, and Pyro's validation is on; else it is summed.
    """
    stack = msg["cond_indep_stack"]
    if not stack and value.dim() == 0:
        return value
    sizes = {f.dim: f.size for f in stack if f.dim is not None}
    enumerated = enumerated_dims(msg)
    shape = value.shape
    if len(shape) < -min(sizes, default=0):
        shape = torch.Size((1,) * (-min(sizes) - len(shape)) + tuple(shape))
    wrong = [
        dim
        for dim, size in zip(range(-len(shape), 0), shape, strict=True)
        if size != sizes.get(dim, 1) and dim not in enumerated
    ]
    if not wrong:
        return value
    if is_validation_enabled():
        wanted = [sizes.get(dim, 1) for dim in range(-len(shape), 0)]
        raise SiteMismatch(
            f"site {msg['name']!r}: its log density has shape {tuple(shape)}, its plates declare "
            f"{tuple(wanted)}; enclose the batch in a pyro.plate, or move it into the event with "
            ".to_event(...)"
        )
    value = value.reshape(shape)
    for dim in wrong:
        value = value.expand(_with(value.shape, dim, sizes[dim])) if dim in sizes else value
        value = value if dim in sizes else value.sum(dim, keepdim=True)
    return value


def _with(shape: torch.Size, dim: int, size: int) -> list[int]:
    sizes = list(shape)
    sizes[dim] = size
    return sizes


def enumerated_dims(msg: Any) -> Mapping[int, int]:
    """Numbers of the enumerated sites that dimensions of a site's tensors stand for."""
    return msg["infer"].get("_dim_to_id", {})


def number_of(msg: Any) -> int | None:
    """A site's own number if it has taken its whole support as its value, else None."""
    dim = msg["infer"].get("_enumerate_dim")
    return None if dim is None else enumerated_dims(msg)[dim]

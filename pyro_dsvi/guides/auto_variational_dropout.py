r"""Variational dropout: every weight is its mean times Gaussian noise around one.

.. math:: q(w) = N(\mu, \alpha\mu^2)

Against a log-uniform prior the divergence depends on α alone, so a large α costs nothing in prior
and the weight is nothing but noise: it can be removed.

Where each weight has an α of its own, the parameters are :math:`(\mu, \log\sigma^2)` and
:math:`\alpha = \sigma^2/\mu^2` is derived.  It is the same family, but the gradient of a draw
:math:`\mu + \sigma\varepsilon` in μ carries no noise, where that of :math:`\mu(1 +
\sqrt\alpha\varepsilon)` has a factor :math:`1 + \sqrt\alpha\varepsilon`, whose variance grows
without bound exactly for the weights that are about to be removed.  Where several weights share an
α that exchange cannot be made, and the parameters are :math:`(\mu, \log\alpha)`.

References:
    :cite:p:`kingma2015local`, :cite:p:`molchanov2017variational`
"""

import math
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, Literal, get_args

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoGuide
from pyro.infer.autoguide.initialization import InitMessenger, init_to_sample
from pyro.nn import PyroModule, PyroParam
from torch import Tensor

from pyro_dsvi.distributions.multiplicative_normal import MultiplicativeNormal
from pyro_dsvi.errors import IncompatibleSite, InvalidArgument

Sharing = Literal["weight", "neuron", "layer"]


class AutoVariationalDropout(AutoGuide):
    r"""The guide :math:`N(\mu, \alpha\mu^2)` at every latent site.

    Use it with a :class:`~pyro_dsvi.distributions.LogUniform` or
    :class:`~pyro_dsvi.distributions.ARD` prior and ``analytic_kl=True``.

    Args:
        model: a Pyro model; its latent sites have real values and lie in no plate.
        alpha: what has an α of its own: each ``"weight"``; each ``"neuron"``, which is an index of
            a site's first dimension (the rows of a linear layer, the filters of a convolution);
            or each ``"layer"``, which is a site.
        init_loc_fn: the means at the start, a function of the site as for Pyro's automatic guides,
            e.g. :func:`~pyro_dsvi.nn.init_to_network`.
        init_scale: the noise's standard deviation at the start; the root mean square of those
            that share an α.

    Raises:
        InvalidArgument: if an argument cannot work.
        IncompatibleSite: if a site is constrained, or lies in a plate.

    References:
        :cite:p:`kingma2015local`, :cite:p:`molchanov2017variational`

    Example:
        >>> import torch, pyro_dsvi as dsvi
        >>> net = torch.nn.Linear(3, 2, bias=False)
        >>> network = dsvi.nn.bayesianize(net, dsvi.distributions.LogUniform())
        >>> init = dsvi.nn.init_to_network(network)
        >>> guide = AutoVariationalDropout(network, alpha="neuron", init_loc_fn=init)
        >>> draw = guide(torch.ones(1, 3))
        >>> guide.log_alpha()["weight"].shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        alpha: Sharing = "weight",
        init_loc_fn: Callable[[Any], Any] = init_to_sample,
        init_scale: float = 0.01,
    ) -> None:
        if alpha not in get_args(Sharing):
            raise InvalidArgument(
                f"AutoVariationalDropout: alpha={alpha!r}; choose 'weight', 'neuron' or 'layer'"
            )
        if not init_scale > 0:
            raise InvalidArgument(
                f"AutoVariationalDropout: init_scale={init_scale!r}; it must be positive"
            )
        self.alpha: Sharing = alpha
        self.init_scale = init_scale
        super().__init__(InitMessenger(init_loc_fn)(model))

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        trace: Any = self.prototype_trace
        self.locs, self.noise = PyroModule(), PyroModule()
        self._sites: dict[str, int] = {}
        for name, site in trace.iter_stochastic_nodes():
            _refuse(name, site)
            loc, event_dim = site["value"].detach().clone(), site["fn"].event_dim
            start = torch.full_like(loc, 2 * math.log(self.init_scale))
            if self.alpha != "weight":
                shared = tuple(range(1 if self.alpha == "neuron" else 0, loc.dim()))
                square = loc.square().mean(shared, keepdim=True) if shared else loc.square()
                start = 2 * math.log(self.init_scale) - square.clamp_min(1e-12).log()
            self._sites[name] = event_dim
            _put(self.locs, name, PyroParam(loc, constraints.real, event_dim))
            _put(self.noise, name, PyroParam(start, constraints.real, event_dim))

    def _law(self, name: str) -> dist.Normal:
        loc, noise = (attrgetter(name)(part) for part in (self.locs, self.noise))
        if self.alpha == "weight":
            return dist.Normal(loc, (0.5 * noise).exp())
        return MultiplicativeNormal(loc, noise)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Draw every site.

        Args:
            *args: positional arguments of the model.
            **kwargs: keyword arguments of the model.
        """
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        return {
            name: pyro.sample(name, self._law(name).to_event(event_dim))
            for name, event_dim in self._sites.items()
        }

    @torch.no_grad()
    def log_alpha(self) -> Mapping[str, Tensor]:
        """The noise of every weight: log α by site, in the site's shape.

        A weight with log α = 3 is 95 % noise; beyond it is usually removed.

        Raises:
            InvalidArgument: if the guide has never run.
        """
        found = {}
        for name in self._known():
            q = self._law(name)
            own = isinstance(q, MultiplicativeNormal)
            value = q.log_alpha if own else 2 * (q.scale / q.loc.abs()).log()
            found[name] = value.expand(q.loc.shape).clone()
        return found

    @torch.no_grad()
    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The means by site."""
        return {name: attrgetter(name)(self.locs).clone() for name in self._known()}

    def _known(self) -> Mapping[str, int]:
        if self.prototype_trace is None:
            raise InvalidArgument(
                "AutoVariationalDropout: it has never run, so it knows no site; "
                "call the guide with the model's arguments first"
            )
        return self._sites


def _refuse(name: str, site: Any) -> None:
    if site["cond_indep_stack"]:
        plate = site["cond_indep_stack"][0].name
        raise IncompatibleSite(
            f"site {name!r}: AutoVariationalDropout is for weights, which lie in no plate, but "
            f"this site is in plate {plate!r}; hide it with poutine.block, and give it a guide of "
            "its own in an AutoGuideList"
        )
    support = site["fn"].support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if support is not constraints.real:
        raise IncompatibleSite(
            f"site {name!r}: AutoVariationalDropout is Gaussian, but values here are "
            f"{support}; hide it with poutine.block, and give it a guide of its own in an "
            "AutoGuideList"
        )


def _put(module: Any, name: str, value: PyroParam) -> None:
    """Set a parameter at a dotted name, with modules on the way."""
    *path, last = name.split(".")
    for part in path:
        if part not in module._modules:
            setattr(module, part, PyroModule())
        module = getattr(module, part)
    setattr(module, last, value)

r"""Any network as a Pyro program: its weights are sampled, and its own forward is run with them.

.. math:: p(y \mid x) = \int p(y \mid f_w(x))\, p(w)\, dw

Nothing of the forward is copied and nothing in the network is replaced: torch evaluates the
module with other tensors in the place of its parameters.  The bound is the sum that it is by
definition,

.. math:: \frac{N}{M} \sum_{m=1}^{M} \mathbb{E}_q \log p(y_m \mid x_m, w)
    - \sum_{\text{weights}} \mathrm{KL}\big(q(w) \,\|\, p(w)\big),

the divergences summed over all elements of all weights, each once, and not averaged.

References:
    :cite:p:`blundell2015weight`
"""

import copy
from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_dsvi.errors import IncompatibleSite, InvalidArgument, UncontrolledNoiseWarning
from pyro_dsvi.graph.nodes import PARTICLES
from pyro_dsvi.lazy import Undrawn
from pyro_dsvi.nn.evaluate import Once, evaluate
from pyro_dsvi.nn.prior import Prior, law_of
from pyro_dsvi.nn.weight import Select, Weight, selected
from pyro_dsvi.passes.announce import send

_PARTICLES = (PARTICLES, "_num_predictive_samples")  # the plates of draws side by side


class BayesianModule(PyroModule):
    """A network whose weights are latent sites; made by :func:`bayesianize`.

    Attributes:
        net: a copy of the network; what has become a site is a buffer in it, which keeps the value
            that the network had.
    """

    net: nn.Module

    def __init__(
        self,
        net: nn.Module,
        weights: list[Weight],
        prior: Prior,
        *,
        name: str = "",
        event_dim: int | None = None,
    ) -> None:
        super().__init__(name)
        self.net = net
        self.prior = prior
        self.event_dim = event_dim
        self._layers = {w.name: w.name.rpartition(".")[0] for w in weights}
        self._dims = {w.name: w.tensor.dim() for w in weights}
        held = [id(x) for layer in net.modules() for x in layer._buffers.values()]
        self._tied = [w.name for w in weights if held.count(id(net.get_buffer(w.name))) > 1]
        self._say = Once()

    @property
    def weights(self) -> list[Weight]:
        """The weights that are sampled, with the values that the network had."""
        net = self._modules["net"]
        assert net is not None  # it is set in __init__
        return [
            Weight(name, net.get_buffer(name), net.get_submodule(layer))
            for name, layer in self._layers.items()
        ]

    def site(self, weight: str) -> str:
        """Name of a weight's site: its dotted name, behind that of the module if it has one."""
        prefix = self.__dict__["_pyro_name"]
        return f"{prefix}.{weight}" if prefix else weight

    def start(self) -> Mapping[str, Tensor]:
        """The values that the network had, by site."""
        return {self.site(weight.name): weight.tensor for weight in self.weights}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Sample the weights, and run the network.

        Args:
            *args: positional arguments of the network.
            **kwargs: keyword arguments of the network.

        Raises:
            IncompatibleSite: if it is called in a plate.
        """
        net: Any = self._modules["net"]
        for name, parameter in list(net.named_parameters()):
            self._register(net, name, parameter)
        drawn = {}
        with _OutsidePlates():
            for weight in self.weights:
                law = law_of(self.prior, weight)
                drawn[weight.name] = pyro.sample(self.site(weight.name), law)
        self._draw_tied(drawn)
        return evaluate(
            net, drawn, self._dims, args, kwargs, event_dim=self.event_dim, say=self._say
        )

    def _draw_tied(self, drawn: dict[str, Tensor]) -> None:
        """Give a weight of several layers its one value, where it was left undrawn.

        Noise at the outputs of one layer would have to know of the noise at those of the others.
        """
        for name in self._tied:
            value = drawn[name]
            if type(value) is Undrawn:
                drawn[name] = value.value("a weight that several layers share")
                self._say(
                    UncontrolledNoiseWarning,
                    f"site {self.site(name)!r}: several layers share it, so it is drawn once for "
                    "all examples, and not at the layers' outputs",
                )

    def _register(self, net: nn.Module, name: str, parameter: nn.Parameter) -> None:
        """Tell Pyro of a parameter; what a param store of this name holds takes its place."""
        if pyro.settings.get("module_local_params"):
            send(self.site(name), parameter)
            return
        value: Any = pyro.param(self.site(name), parameter)
        stored = value.unconstrained()
        if stored is not parameter:
            set_tensors(net, {name: stored})


class _OutsidePlates(Messenger):
    """Refuses weights that would be drawn anew for every element of a plate."""

    def _pyro_post_sample(self, msg: Any) -> None:
        for frame in msg["cond_indep_stack"]:
            if frame.vectorized and frame.name not in _PARTICLES:
                raise IncompatibleSite(
                    f"site {msg['name']!r}: the network is called in plate {frame.name!r}, where "
                    "every element would have weights of its own; call it outside the plate, and "
                    "use its outputs inside"
                )


def bayesianize(
    net: nn.Module,
    prior: Prior | None = None,
    select: Select = "*",
    *,
    name: str = "",
    event_dim: int | None = None,
) -> BayesianModule:
    """Turn a network into a Pyro program, by sampling its parameters.

    Parameters that are not selected stay parameters, trained without a prior; Pyro knows them by
    their dotted names.  A parameter that several layers share is one site.  The network is copied,
    and left as it is.

    Args:
        net: any module.
        prior: the law of a weight: a distribution of one number, for all elements alike; or a
            function from a :class:`Weight` to a distribution, such as :class:`FanIn`.  By default
            standard normal.
        select: which parameters become sites: a pattern of their dotted names, as in a shell
            (``"*.weight"`` leaves out biases); a type of layer; a function of a :class:`Weight`; or
            several of these, one of which has to hold.
        name: put in front of the sites' names, as ``"encoder"``; needed where a program has
            several networks, unless they are attributes of a ``PyroModule``, which names them.
        event_dim: dimensions of an output to the right of all plates, e.g. 1 for ``[N, classes]``.
            Needed for particles side by side alone, and there only in a program that has more
            plate dimensions than the output.

    Returns:
        A module that takes the network's arguments.  Its sites have the parameters' own dotted
        names.

    Raises:
        InvalidArgument: if nothing is selected, or a prior has another shape than its weight.

    References:
        :cite:p:`blundell2015weight`

    Example:
        >>> import pyro, torch, pyro.distributions as dist, pyro_dsvi as dsvi
        >>> x, y = torch.randn(50, 3), torch.randint(2, (50,))
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
        >>> network = dsvi.nn.bayesianize(net, dsvi.nn.FanIn(), select="*.weight")
        >>> def model(x, y):
        ...     logits = network(x)
        ...     with pyro.plate("data", 50):
        ...         pyro.sample("y", dist.Categorical(logits=logits), obs=y)
        >>> init = dsvi.nn.init_to_network(network)
        >>> guide = pyro.infer.autoguide.AutoNormal(model, init_loc_fn=init, init_scale=0.01)
        >>> elbo = dsvi.PathwiseELBO(analytic_kl=True)
        >>> svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), elbo)
        >>> loss = svi.step(x, y)
    """
    if not isinstance(net, nn.Module):
        raise InvalidArgument(f"bayesianize: expected a torch.nn.Module, got {net!r}")
    prior = dist.Normal(0.0, 1.0) if prior is None else prior
    weights = selected(net, select)
    for weight in weights:
        law_of(prior, weight)
    net = copy.deepcopy(net)
    set_tensors(net, {weight.name: weight.tensor.detach().clone() for weight in weights})
    return BayesianModule(net, weights, prior, name=name, event_dim=event_dim)


def set_tensors(net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors in the place of parameters or buffers, wherever these are tied to.

    Args:
        net: the network, which is changed.
        tensors: by the first of their dotted names; what is a leaf with a gradient becomes a
            parameter, another tensor a buffer.
    """
    old = {id(_get(net, name)): tensor for name, tensor in tensors.items()}
    for layer in net.modules():
        for own in (layer._parameters, layer._buffers):
            for role in [role for role, tensor in own.items() if id(tensor) in old]:
                new = old[id(own.pop(role))]
                if new.requires_grad:
                    # As it is: the param store may hold a leaf that is no nn.Parameter.
                    layer._parameters[role] = new  # pyright: ignore[reportArgumentType]
                else:
                    layer.register_buffer(role, new)


def _get(net: nn.Module, name: str) -> Any:
    path, _, role = name.rpartition(".")
    return getattr(net.get_submodule(path), role)

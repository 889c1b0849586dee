r"""The relevance vector machine: sparse Bayesian classification and regression.

.. math:: f(x) = w_0 + \sum_j w_j\, k(x, c_j), \qquad w_j \sim \mathcal N(0, l_j^2), \qquad
    y \sim p(y \mid f(x))

Each centre's weight has a prior scale of its own, maximised out of the bound in closed form
(:mod:`pyro_dsvi.models.relevance`); the centres whose weights remain are the relevance vectors.

A datum sees the weights only through one number,
:math:`f_n = \phi_n^\top w \sim \mathcal N(\phi_n^\top \mu, \phi_n^\top \Sigma \phi_n)`, so that the
bound is a sum of integrals over the line,

.. math:: \mathcal{L} = \sum_n \mathbb{E}_{\mathcal N(f_n)} \log p(y_n \mid f_n)
    - \min_l \mathrm{KL}(q \,\|\, p)

and there are three ways to it: draw the weights (:meth:`~RelevanceVectorMachine.model`,
:meth:`~RelevanceVectorMachine.guide`); draw one number a datum
(:meth:`~RelevanceVectorMachine.local_model`, :meth:`~RelevanceVectorMachine.local_guide`); or
integrate (:meth:`~RelevanceVectorMachine.bound`).

References:
    :cite:p:`titsias2014dsvi`, :cite:p:`tipping2001rvm`
"""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.models.kernels import RBF, Kernel, median_distance
from pyro_dsvi.models.likelihoods import BernoulliLikelihood, Likelihood
from pyro_dsvi.models.relevance import MeanField, Relevance
from pyro_dsvi.models.sparse_fit import Fit, fit, prune
from pyro_dsvi.passes.announce import announce


class RelevanceVectorMachine(torch.nn.Module):
    """A relevance vector machine, its guide's parameters in it.

    Its pairs of programs train under any of Pyro's or of this package's objectives; :meth:`fit`
    maximises the integrated bound over all data, and prunes.

    Args:
        centres: points that carry a basis function, mostly the training inputs, ``[D, d]``.
        likelihood: of y given f; a :class:`BernoulliLikelihood` if None.
        kernel: the basis functions; an :class:`RBF` of the centres' median distance if None.
        relevance: makes the guide of as many weights: :class:`MeanField` or :class:`FullRank`.

    Raises:
        InvalidArgument: if the centres are no matrix of at least one row.

    Example:
        >>> import pyro, torch, pyro_dsvi as dsvi
        >>> _ = pyro.set_rng_seed(0)
        >>> x = torch.linspace(-3, 3, 40).unsqueeze(-1)
        >>> y = (x.squeeze(-1).abs() < 1.5).float()
        >>> rvm = dsvi.models.RelevanceVectorMachine(x)
        >>> fitted = rvm.fit(x, y)
        >>> len(rvm.relevance_vectors) < 6
        True
        >>> rvm.predictive(torch.tensor([[0.0], [3.0]])).mean.round()
        tensor([1., 0.])

        or by doubly stochastic inference, one number a datum:

        >>> rvm = dsvi.models.RelevanceVectorMachine(x)
        >>> elbo = dsvi.PathwiseELBO()
        >>> adam = pyro.optim.Adam({"lr": 0.02})
        >>> svi = pyro.infer.SVI(rvm.local_model, rvm.local_guide, adam, elbo)
        >>> loss = svi.step(x, y, minibatch=10)
    """

    centres: Tensor
    kept: Tensor

    def __init__(
        self,
        centres: Tensor,
        likelihood: Likelihood | None = None,
        *,
        kernel: Kernel | None = None,
        relevance: Callable[[int], Relevance] = MeanField,
    ) -> None:
        super().__init__()
        if centres.dim() != 2 or len(centres) == 0:
            raise InvalidArgument(
                f"RelevanceVectorMachine: centres are a matrix [D, d], got {tuple(centres.shape)}"
            )
        self.kernel = RBF(median_distance(centres)) if kernel is None else kernel
        self.likelihood = BernoulliLikelihood() if likelihood is None else likelihood
        self.relevance = relevance(1 + len(centres)).to(centres)
        self.likelihood.to(centres)
        self.register_buffer("centres", centres.detach().clone())
        self.register_buffer("kept", torch.arange(1 + len(centres), device=centres.device))

    def basis(self, x: Tensor) -> Tensor:
        """The basis functions that are left, the constant first if it is: ``[N, d] -> [N, D]``."""
        constant = self.kept[self.kept == 0] + 1
        values = self.kernel(x, self.relevance_vectors)
        return torch.cat([constant.to(x).expand(len(x), -1), values], -1)

    @property
    def relevance_vectors(self) -> Tensor:
        """The centres whose weights are left, shape ``[R, d]``."""
        return self.centres[self.relevance_indices]

    @property
    def relevance_indices(self) -> Tensor:
        """Their rows among the centres, shape ``[R]``."""
        return self.kept[self.kept > 0] - 1

    def model(self, x: Tensor, y: Tensor | None = None, *, minibatch: int | None = None) -> Any:
        """Weights under their prior, and y.

        Args:
            x: inputs, shape ``[N, d]``.
            y: outputs, shape ``[N]``; None to predict.
            minibatch: size of the minibatch; None for all.
        """
        announce(self)
        basis = self.basis(x)
        prior = dist.Normal(torch.zeros_like(self.relevance.loc), self._prior_scale)
        w = pyro.sample("weights", prior.to_event(1))
        with pyro.plate("data", len(x), subsample_size=minibatch) as rows:
            f = w @ basis[rows].T
            f = f.reshape(*w.shape[:-2], -1)  # a particle's axis has a one for the plate's
            return pyro.sample("y", self.likelihood.law(f), obs=_rows(y, rows))

    def guide(self, x: Tensor, y: Tensor | None = None, *, minibatch: int | None = None) -> None:
        """The weights, as they are under the guide."""
        announce(self)
        pyro.sample("weights", self.relevance.law())

    def local_model(
        self, x: Tensor, y: Tensor | None = None, *, minibatch: int | None = None
    ) -> Any:
        """One number a datum with the guide's own law, y, and the weights' KL as a factor.

        The number's densities in model and guide are the same and cancel, in value and gradient.
        Arguments are those of :meth:`model`.
        """
        announce(self)
        pyro.factor("kl", -self.relevance.kl())
        with pyro.plate("data", len(x), subsample_size=minibatch) as rows:
            f = pyro.sample("f", self._local(x[rows]))
            return pyro.sample("y", self.likelihood.law(f), obs=_rows(y, rows))

    def local_guide(
        self, x: Tensor, y: Tensor | None = None, *, minibatch: int | None = None
    ) -> None:
        """One number a datum; the weights are never drawn."""
        announce(self)
        with pyro.plate("data", len(x), subsample_size=minibatch) as rows:
            pyro.sample("f", self._local(x[rows]))

    def bound(self, x: Tensor, y: Tensor, *, size: int | None = None) -> Tensor:
        """The bound in nats, each datum integrated: closed, or by quadrature; differentiable.

        Args:
            x: inputs, shape ``[M, d]``.
            y: outputs, shape ``[M]``.
            size: number of all data, where these are a minibatch; M if None.
        """
        mean, variance = self.relevance.moments(self.basis(x))
        terms = self.likelihood.expected_log_prob(mean, variance, y)
        scale = 1.0 if size is None else size / len(x)
        return scale * terms.sum() - self.relevance.kl()

    def fit(
        self, x: Tensor, y: Tensor, *, most_iterations: int = 500, tolerance: float = 1e-5
    ) -> Fit:
        """Maximise :meth:`bound` over all data and leave out what does not pay.

        Parameters are replaced by smaller ones where weights are left out, so an optimizer made
        before knows nothing of them.  Arithmetic is in double precision.

        Args:
            x: inputs, shape ``[N, d]``.
            y: outputs, shape ``[N]``.
            most_iterations: when to stop.
            tolerance: change of the bound in nats a datum that is none: at which to stop, and which
                leaving out weights may cost.

        Returns:
            The bound by iteration, and whether it settled.

        Raises:
            InvalidArgument: if inputs and outputs do not match, or there are none.
        """
        if x.dim() != 2 or y.shape != x.shape[:1] or len(x) == 0:
            raise InvalidArgument(
                f"fit: inputs [N, d] and outputs [N] are wanted, got {tuple(x.shape)} and "
                f"{tuple(y.shape)}"
            )
        precision = self.relevance.loc.dtype
        self.double()
        try:
            found, left = fit(
                self.basis(x.double()),
                y.double(),
                self.relevance,
                self.likelihood,
                most_iterations=most_iterations,
                tolerance=tolerance,
            )
        finally:
            self.to(precision)
        self.kept = self.kept[left]
        return found

    def prune(self, x: Tensor, y: Tensor, *, tolerance: float = 1e-5) -> int:
        """Leave out the weights that the bound does not miss, after training by other means.

        Args:
            x: inputs, shape ``[N, d]``.
            y: outputs, shape ``[N]``.
            tolerance: by how much the bound may fall at a time, in nats a datum.

        Returns:
            How many weights were left out.
        """
        left = prune(self.basis(x), y, self.relevance, self.likelihood, tolerance=tolerance)
        number = len(self.kept) - len(left)
        self.kept = self.kept[left]
        return number

    @torch.no_grad()
    def predictive(self, x: Tensor) -> Any:
        """The posterior predictive of y, the weights integrated out: a Pyro distribution."""
        return self.likelihood.predictive(*self.relevance.moments(self.basis(x)))

    @property
    def _prior_scale(self) -> Tensor:
        # A constant: the bound is flat where it is highest, so its gradient is that of the whole.
        return self.relevance.prior_variances.sqrt()

    def _local(self, x: Tensor) -> Any:
        mean, variance = self.relevance.moments(self.basis(x))
        return dist.Normal(mean, variance.sqrt())


def _rows(y: Tensor | None, rows: Any) -> Tensor | None:
    return None if y is None else y[rows]

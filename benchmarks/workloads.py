"""The workloads W1 to W6: which problem, which contenders, and what is claimed of ours.

A contender is written here as a function of the device that builds it.  Those that run the same
mathematics share their problem; where somebody does less, its ``note`` says so.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from pyro.infer import ELBO, JitTrace_ELBO, RenyiELBO, Trace_ELBO, TraceGraph_ELBO
from pyro.infer import TraceMeanField_ELBO as MeanField

import pyro_dsvi as dsvi
from benchmarks.contenders import by_hand, in_pyro
from benchmarks.contenders.in_numpyro import Jitted
from benchmarks.contenders.runner import RATE, NotAvailable, Runner
from benchmarks.problem import Make, Problem
from benchmarks.programs.bits import DECAY, Bits
from benchmarks.programs.bnn import BNN
from benchmarks.programs.eight_schools import EightSchools
from benchmarks.programs.logistic_regression import LogisticRegression
from benchmarks.programs.vae import VAE

HAND, HAND_PLAIN, HAND_COMPILED = "by hand", "by hand, unfused Adam", "by hand, torch.compile"
NUMPYRO, NUMPYRO_SCAN = "NumPyro", "NumPyro, lax.scan"
EAGER, EAGER_PYRO = "dsvi", "dsvi, Pyro's Adam"
COMPILED, UNROLLED = "dsvi, compiled", "dsvi, compiled, run"
COMPILERS = frozenset((HAND_COMPILED, NUMPYRO, NUMPYRO_SCAN, COMPILED, UNROLLED))


@dataclass(frozen=True)
class Workload:
    """One workload.

    Attributes:
        name: its short name.
        words: what it is.
        problem: the problem, given a seed.
        pyro: Pyro's losses by name; the first is the one that ours is held against.
        ours: the same estimator in an objective of ours.
        numpyro: name of NumPyro's loss, or None.
        particles: draws of the guide in a step.
        unrolled: steps that one call of ``lax.scan`` or ``run`` makes.
        limits: our compiled step's time over that of Pyro, NumPyro and the eager step by hand.
        eager_limit: our eager step's time over that of Pyro.
        note: what is not alike, if anything.
        less: contenders whose gradient is not that of the others.
        handler: a context for each step of Pyro's, from a peer; None for none.
        wrap: makes another model and guide of a pair, for ours; None for none.
    """

    name: str
    words: str
    problem: Callable[[int], Problem]
    pyro: Mapping[str, Callable[[], ELBO]]
    ours: Callable[[], ELBO]
    numpyro: str | None
    particles: int = 1
    unrolled: int = 10
    limits: tuple[float | None, float | None, float | None] = (None, None, None)
    eager_limit: float | None = None
    note: str = ""
    less: frozenset[str] = frozenset()
    handler: Callable[[], Callable[[], Any]] | None = None
    wrap: Callable[[Any, Any], Any] | None = None

    @property
    def rival(self) -> str:
        """Pyro's contender that ours is held against."""
        return next(iter(self.pyro))

    def contenders(
        self, seed: int, device: str = "cpu", rate: float = RATE
    ) -> dict[str, Callable[[], Runner]]:
        """How to build each contender, by name."""
        problem, K = self.problem(seed), self.particles
        options: dict[str, Any] = {"seed": seed, "rate": rate}

        def make():
            return problem.in_pyro(device)

        found: dict[str, Callable[[], Runner]] = {
            HAND: lambda: by_hand.Eager(problem, K, device, rate),
            HAND_PLAIN: lambda: by_hand.Eager(problem, K, device, rate, fused=None),
            HAND_COMPILED: lambda: by_hand.Compiled(problem, K, device, rate),
        }
        for name, loss in self.pyro.items():
            found[name] = partial(self._pyro, make, loss, options)
        if self.numpyro is not None:
            numpyro = partial(Jitted, problem, self.numpyro, K, device, rate=rate)
            found[NUMPYRO] = numpyro
            found[NUMPYRO_SCAN] = partial(numpyro, steps=self.unrolled)
        mine = {**options, "wrap": self.wrap}
        fused = {**mine, "optimizer": dsvi.optim.FusedAdam}
        found[EAGER] = lambda: in_pyro.Stepwise(make, self.ours(), **fused)
        found[EAGER_PYRO] = lambda: in_pyro.Stepwise(make, self.ours(), **mine)
        found[COMPILED] = lambda: in_pyro.Compiled(make, self.ours(), **mine)
        found[UNROLLED] = lambda: in_pyro.Compiled(
            make, self.ours(), unrolled=self.unrolled, **mine
        )
        return found

    def _pyro(self, make: Make, loss: Callable[[], ELBO], options: Mapping[str, Any]) -> Runner:
        handler = self.handler() if self.handler is not None else None
        return in_pyro.Stepwise(make, loss(), around=handler, **options)


def _tyxe() -> Callable[[], Any]:
    try:
        import tyxe
    except ImportError as error:
        raise NotAvailable(
            f"{error.name} is not installed (pip install --no-deps tyxe==0.0.2)"
        ) from error
    return tyxe.poutine.local_reparameterization


def _side_by_side(loss: Callable[..., ELBO], particles: int, **options: Any) -> Any:
    """A loss of Pyro's with its particles vectorised."""
    return partial(
        loss, num_particles=particles, vectorize_particles=True, max_plate_nesting=1, **options
    )


_JIT = partial(JitTrace_ELBO, ignore_jit_warnings=True)
_RUNNING_MEAN = partial(dsvi.baselines.MovingAverage, DECAY)

WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload(
            "W1",
            "eight schools, AutoNormal, K=1",
            lambda seed: EightSchools(seed),
            {"Pyro Trace": Trace_ELBO, "Pyro TraceGraph": TraceGraph_ELBO, "Pyro JitTrace": _JIT},
            dsvi.PathwiseELBO,
            "Trace_ELBO",
            unrolled=100,
            limits=(0.025, 0.5, 0.11),
            eager_limit=0.75,
        ),
        Workload(
            "W2a",
            "logistic regression, minibatch 64, K=1",
            lambda seed: LogisticRegression(seed),
            {"Pyro Trace": Trace_ELBO, "Pyro TraceGraph": TraceGraph_ELBO, "Pyro JitTrace": _JIT},
            dsvi.PathwiseELBO,
            "Trace_ELBO",
            unrolled=100,
            limits=(0.04, 0.35, 0.15),
            eager_limit=0.75,
        ),
        Workload(
            "W2b",
            "logistic regression, minibatch 64, K=64",
            lambda seed: LogisticRegression(seed),
            {
                "Pyro Trace": _side_by_side(Trace_ELBO, 64),
                "Pyro JitTrace": _side_by_side(_JIT, 64),
            },
            partial(dsvi.PathwiseELBO, num_particles=64),
            "Trace_ELBO",
            particles=64,
            unrolled=50,
            limits=(0.08, 0.30, 0.35),
            eager_limit=0.75,
        ),
        Workload(
            "W3",
            "VAE 784-400-20, batch 128, K=1",
            lambda seed: VAE(seed),
            {"Pyro Trace": Trace_ELBO, "Pyro TraceMeanField": MeanField, "Pyro JitTrace": _JIT},
            dsvi.PathwiseELBO,
            "Trace_ELBO",
            limits=(0.45, 1.0, 0.62),
            eager_limit=0.75,
            note="TraceMeanField takes the divergence in closed form",
        ),
        Workload(
            "W4",
            "VAE 784-400-20, batch 128, IWAE, K=16",
            lambda seed: VAE(seed, bound="iwae"),
            {"Pyro Renyi": _side_by_side(RenyiELBO, 16, alpha=0)},
            partial(dsvi.IWAE, 16),
            "RenyiELBO",
            particles=16,
            unrolled=4,
            limits=(0.48, 0.80, 0.53),
        ),
        Workload(
            "W5a",
            "200 Bernoulli latents, batch 64, score function with running mean, K=1",
            lambda seed: Bits(seed),
            {"Pyro TraceGraph": TraceGraph_ELBO, "Pyro Trace": Trace_ELBO},
            lambda: dsvi.ScoreFunctionELBO(_RUNNING_MEAN()),
            "TraceGraph_ELBO",
            limits=(0.22, 1.05, 0.55),
            eager_limit=0.75,
            note="Pyro Trace and NumPyro have no running mean, and so do less; Pyro TraceGraph's "
            "is one for each place in the batch",
        ),
        Workload(
            "W5b",
            "200 Bernoulli latents, batch 64, VIMCO, K=8",
            lambda seed: Bits(seed, bound="vimco"),
            {"Pyro Renyi": _side_by_side(RenyiELBO, 8, alpha=0)},
            partial(dsvi.VIMCO, 8),
            "RenyiELBO",
            particles=8,
            limits=(0.48, 1.0, 0.58),
            eager_limit=0.75,
            note="Pyro and NumPyro have the bound, but no score term nor baseline for it: their "
            "gradient of the encoder is not the bound's, and costs less",
            less=frozenset(("Pyro Renyi", NUMPYRO, NUMPYRO_SCAN)),
        ),
        Workload(
            "W6a",
            "BNN 784-400-400-10, batch 128, K=1",
            lambda seed: BNN(seed),
            {"Pyro Trace": Trace_ELBO, "Pyro TraceMeanField": MeanField, "Pyro JitTrace": _JIT},
            dsvi.PathwiseELBO,
            "Trace_ELBO",
            limits=(0.25, 0.85, 0.50),
            note="TraceMeanField takes the divergence in closed form",
        ),
        Workload(
            "W6b",
            "BNN 784-400-400-10, batch 128, local reparameterisation, K=1",
            lambda seed: BNN(seed, local=True),
            {"TyXe": MeanField},
            partial(dsvi.PathwiseELBO, analytic_kl=True),
            None,
            limits=(0.30, None, 0.60),
            note="the divergence is in closed form for all",
            handler=_tyxe,
            wrap=dsvi.handlers.local_reparameterization,
        ),
    )
}

"""Quasi-random particles: one joint net a step, each point of the right law, less variance."""

import math
from collections.abc import Callable
from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro import poutine
from scipy.stats import qmc
from torch import Tensor
from torch.quasirandom import SobolEngine

import pyro_dsvi as dsvi
from pyro_dsvi.errors import (
    DependentParticlesWarning,
    DSVIWarning,
    IncompatibleSite,
    InvalidArgument,
    UncontrolledNoiseWarning,
)
from pyro_dsvi.handlers.coupling import Seat
from pyro_dsvi.handlers.points import Made, Sobol
from pyro_dsvi.handlers.reparameterisation import reparameterisation
from tests.scenarios import f64

MODES = pytest.mark.parametrize("side_by_side", [True, False])
UNIT = dist.Uniform(f64(0.0), f64(1.0))
ENGINES: dict[str, Callable] = {
    "sobol": lambda: "sobol",
    "torch's, made anew": lambda: lambda d, seed: SobolEngine(d, scramble=True, seed=seed),
    "scipy's, made anew": lambda: lambda d, seed: qmc.Sobol(d, seed=seed),
    "torch's": lambda: SobolEngine(3, scramble=True, seed=1),
    "scipy's": lambda: qmc.Sobol(3, seed=1),
}


class Run:
    """A guide with three uniform numbers of noise at two sites, one of them in a plate."""

    def __init__(self, engine, count: int, side_by_side: bool, *, wrapped: bool = False) -> None:
        self.drawn: list[Tensor] = []
        self.count, self.side_by_side = count, side_by_side
        self.objective = dsvi.PathwiseELBO(
            num_particles=count, vectorize_particles=side_by_side, max_plate_nesting=1
        )
        self.handler = dsvi.handlers.quasi_monte_carlo(engine)
        self.wrapped = wrapped
        self.program = self.handler(self.guide) if wrapped else self.guide

    def guide(self) -> None:
        with pyro.plate("data", 2):
            pair = pyro.sample("pair", UNIT)
        alone = pyro.sample("alone", UNIT)
        self.drawn.append(torch.cat([pair, alone.expand((*pair.shape[:-1], 1))], -1).detach())

    def points(self) -> Tensor:
        """The step's points ``[K, 3]``."""
        self.drawn.clear()
        with nullcontext() if self.wrapped else self.handler:
            self.objective.loss(self.model, self.program)
        return self.drawn[-1] if self.side_by_side else torch.stack(self.drawn[-self.count :])

    @staticmethod
    def model() -> None:
        with pyro.plate("data", 2):
            pyro.sample("pair", UNIT)
        pyro.sample("alone", UNIT)


def is_net(u: Tensor) -> bool:
    """Every interval of length 1/K holds one point of each coordinate; each quarter square K/4."""
    count = len(u)
    if not all(len((column * count).floor().unique()) == count for column in u.T):
        return False
    cells = (u[:, 0] * 2).floor() + 2 * (u[:, 1] * 2).floor()
    return bool(
        (cells.bincount() if cells.dtype == torch.long else cells.long().bincount())
        .eq(count // 4)
        .all()
    )


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("name", ENGINES)
@MODES
def test_each_step_is_one_joint_net(name, side_by_side, wrapped):
    """From the very first step, before the number of dimensions is known."""
    run = Run(ENGINES[name](), 16, side_by_side, wrapped=wrapped)
    steps = [run.points() for _ in range(3)]
    for u in steps:
        assert u.shape == (16, 3)
        assert is_net(u)
    assert not torch.equal(steps[0], steps[1])


def test_independent_particles_are_no_net():
    """The test above can fail."""
    assert not is_net(torch.rand(16, 3, dtype=torch.float64))


@MODES
def test_joint_and_not_site_by_site(side_by_side):
    """Sites that shared one net, or had nets that are permuted, would tell in two coordinates.

    In the first two coordinates of a Sobol sequence every elementary interval of volume 1/16 holds
    one of 16 points; they belong to two sites here.
    """
    drawn: list[Tensor] = []

    def program():
        return torch.stack([pyro.sample(name, UNIT) for name in ("a", "b")], -1)

    objective = dsvi.PathwiseELBO(
        num_particles=16, vectorize_particles=side_by_side, max_plate_nesting=0
    )
    handler = dsvi.handlers.quasi_monte_carlo()
    for _ in range(3):
        with handler:
            objective.loss(program, lambda: drawn.append(program()))
        u = drawn[-1] if side_by_side else torch.stack(drawn[-16:])
        for k in range(5):
            cells = (u * f64([2**k, 2 ** (4 - k)])).floor() @ f64([2 ** (4 - k), 1.0])
            assert len(cells.unique()) == 16


@pytest.mark.parametrize("dimension", [1, 2, 7, 40])
@pytest.mark.parametrize("count", [2, 8, 64])
def test_scrambling_keeps_the_equidistribution(count, dimension):
    """Elementary intervals hold as many scrambled points as plain ones, in any two coordinates."""
    u = Sobol().columns(count, 0, dimension)
    plain = SobolEngine(dimension).draw(count, dtype=torch.float64)
    assert ((u > 0) & (u < 1)).all()
    digits = (count - 1).bit_length()
    for j in range(1, dimension):
        for k in range(digits + 1):
            found, expected = (
                (x[:, j - 1] * 2**k).floor() * 2 ** (digits - k)
                + (x[:, j] * 2 ** (digits - k)).floor()
                for x in (u, plain)
            )
            counts = [torch.sort(c.unique(return_counts=True)[1])[0] for c in (found, expected)]
            assert torch.equal(*counts)


def test_columns_may_come_later():
    """A set of 3 + 4 columns is as joint as one of 7: the same plain points under it."""
    source = Sobol()
    late = torch.cat([source.columns(16, 0, 3), source.columns(16, 3, 7)], 1)
    plain = SobolEngine(7).draw(16, dtype=torch.float64)
    for i in range(7):
        for j in range(i):
            found, expected = (
                ((x[:, i] * 4).floor() * 4 + (x[:, j] * 4).floor()).unique(return_counts=True)[1]
                for x in (late, plain)
            )
            assert torch.equal(found.sort()[0], expected.sort()[0])


SOURCES = {
    "sobol": Sobol(),
    "scipy's": Made(lambda d, seed: qmc.Sobol(d, seed=seed)),
    "torch's": Made(lambda d, seed: SobolEngine(d, scramble=True, seed=seed)),
}


@pytest.mark.parametrize("name", SOURCES)
def test_each_point_keeps_its_law(name):
    """Over 2000 sets, the first point and the last are uniform on the cube."""
    torch.manual_seed(3)
    u = torch.stack([SOURCES[name].columns(4, 0, 3) for _ in range(2000)])
    for point in (0, 3):
        for i in range(3):
            assert scipy.stats.kstest(u[:, point, i].numpy(), "uniform").pvalue > 1e-3
        octant = (u[:, point] * 2).long() @ torch.tensor([1, 2, 4])
        assert scipy.stats.chisquare(octant.bincount(minlength=8).numpy()).pvalue > 1e-3


def gradients(handler, count: int, steps: int, side_by_side: bool = True) -> Tensor:
    """Gradient in the locations of f = exp(z₁/2) + z₂², both Gaussian, one step after another."""
    m = f64([0.3, -0.2]).requires_grad_()

    def program(m):
        return pyro.sample("z", dist.Normal(m, f64([0.7, 1.1])).to_event(1))

    def model():
        with poutine.mask(mask=False):
            z = program(m.detach())
        pyro.factor("f", (z[..., 0] / 2).exp() + z[..., 1] ** 2)

    def guide():
        with poutine.mask(mask=False):
            program(m)

    objective = dsvi.PathwiseELBO(num_particles=count, vectorize_particles=side_by_side)
    with handler:
        return -torch.stack(
            [
                torch.autograd.grad(objective.differentiable_loss(model, guide), m)[0]
                for _ in range(steps)
            ]
        )


@MODES
def test_gradient_is_unbiased_and_of_less_variance(side_by_side):
    """16 points have less than a tenth of the variance of independent ones in this cost."""
    torch.manual_seed(0)
    drawn = gradients(dsvi.handlers.quasi_monte_carlo(), 16, 60, side_by_side)
    plain = gradients(nullcontext(), 16, 60, side_by_side)
    truth = torch.stack([(f64(0.3) / 2 + 0.7**2 / 8).exp() / 2, f64(-0.4)])
    for gradient in (drawn, plain):
        z = (gradient.mean(0) - truth) / (gradient.std(0) / math.sqrt(len(gradient)))
        assert z.abs().max() < 4
    assert (drawn.var(0) * 10 < plain.var(0)).all()


def test_variance_falls_faster_than_one_over_the_particles():
    """Independent particles would gain a factor of 16 from 4 to 64; these gain a hundredfold."""
    torch.manual_seed(0)
    few, many = (
        gradients(dsvi.handlers.quasi_monte_carlo("sobol"), count, 300).var(0) for count in (4, 64)
    )
    assert (few > 100 * many).all()


def test_engine_of_independent_coordinates():
    """Latin hypercubes too: each coordinate is stratified."""
    run = Run(lambda d, seed: qmc.LatinHypercube(d, seed=seed), 10, side_by_side=True)
    u = run.points()
    assert all(len((column * 10).floor().unique()) == 10 for column in u.T)


def test_noise_of_the_last_batch_may_be_smaller():
    """Sites whose shape changes from step to step get columns of their own."""
    sizes = iter([5, 5, 2, 7])
    drawn = []

    def guide(size):
        with pyro.plate("data", size):
            drawn.append(pyro.sample("z", dist.Normal(f64(0.0), 1.0)))

    objective = dsvi.PathwiseELBO(num_particles=8, vectorize_particles=True)
    with dsvi.handlers.quasi_monte_carlo():
        for size in sizes:
            objective.loss(guide, guide, size)
            u = dist.Normal(0.0, 1.0).cdf(drawn[-2])
            assert u.shape == (8, size)
            assert all(len((column * 8).floor().unique()) == 8 for column in u.T)


def test_particles_of_a_branching_program():
    """A site keeps its columns from particle to particle, however late it is first visited."""
    seen: dict[str, set[float]] = {"a": set(), "left": set(), "right": set()}

    def guide():
        a = pyro.sample("a", UNIT)
        side = "left" if a < 0.5 else "right"
        seen["a"].add(float(a))
        seen[side].add(float(pyro.sample(side, UNIT)))

    with dsvi.handlers.quasi_monte_carlo():
        dsvi.PathwiseELBO(num_particles=8, vectorize_particles=False).loss(guide, guide)
    assert len({int(8 * a) for a in seen["a"]}) == 8
    assert len(seen["left"]) == len(seen["right"])
    for side in ("left", "right"):  # the halves of a net's column are stratified by themselves
        assert len({int(8 * u) for u in seen[side]}) == len(seen[side])


def test_a_dimension_left_of_the_particles():
    """Where a site is drawn for each value of another, the particles' axis is not the first."""
    law = reparameterisation(dist.Normal(torch.zeros(2, 8, 3).double(), f64(1.0)))
    assert law is not None
    handler, seat = dsvi.handlers.quasi_monte_carlo(), Seat(8, axis=1)
    handler.begin(seat)
    noise = handler.noise("z", law, seat)
    assert noise.shape == (2, 8, 3)
    u = dist.Normal(f64(0.0), f64(1.0)).cdf(noise).transpose(0, 1).reshape(8, 6)
    assert all(len((column * 8).floor().unique()) == 8 for column in u.T)


def test_single_precision_guide():
    def guide():
        return pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))

    with dsvi.handlers.quasi_monte_carlo():
        assert dsvi.PathwiseELBO(num_particles=4).loss(guide, guide) == 0.0


# -- limits ----------------------------------------------------------------------------------


def test_more_dimensions_than_a_sobol_sequence_has():
    """The rest is independent, which is said once; the first ones are a net still."""
    size = Sobol.most + 50
    drawn = []

    def guide():
        drawn.append(pyro.sample("z", dist.Normal(torch.zeros(size), 1.0).to_event(1)))

    objective = dsvi.PathwiseELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=0)
    handler = dsvi.handlers.quasi_monte_carlo()
    with handler, pytest.warns(DSVIWarning, match=r"21201 dimensions.*'z' on, it is independent"):
        objective.loss(guide, guide)
    with handler:
        objective.loss(guide, guide)
    u = dist.Normal(0.0, 1.0).cdf(drawn[-2])
    stratified = torch.tensor([len((column * 4).floor().unique()) == 4 for column in u.T])
    assert stratified[: Sobol.most].all()
    assert not stratified[Sobol.most :].all()


def test_engine_with_too_few_dimensions():
    run = Run(SobolEngine(2, scramble=True, seed=0), 4, side_by_side=True)
    with pytest.raises(InvalidArgument, match=r"engine has 2 dimensions, the guide's noise .* 3"):
        run.points()


@pytest.mark.parametrize("engine", [SobolEngine(3), qmc.Sobol(3, scramble=False)])
def test_engine_that_is_not_scrambled(engine):
    with pytest.raises(InvalidArgument, match="not scrambled, so its estimate would be biased"):
        dsvi.handlers.quasi_monte_carlo(engine)


@pytest.mark.parametrize("engine", ["niederreiter", 3, None, qmc.Sobol])
def test_no_engine(engine):
    with pytest.raises(InvalidArgument, match=r"expected 'sobol', an engine of scipy\.stats\.qmc"):
        dsvi.handlers.quasi_monte_carlo(engine)


def test_function_that_makes_no_engine():
    run = Run(lambda d, seed: torch.rand(d), 4, side_by_side=True)
    with pytest.raises(InvalidArgument, match="expected an engine of 2 dimensions, got tensor"):
        run.points()


def test_sites_and_bounds_are_judged_as_for_antithetic_particles():
    def guide():
        pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.0)), 1.0))
        pyro.sample("g", dist.Gamma(2.0, 1.0))

    handler = dsvi.handlers.quasi_monte_carlo()
    with handler, pytest.warns(UncontrolledNoiseWarning, match=r"'g': quasi_monte_carlo\(\)"):
        dsvi.PathwiseELBO(num_particles=4).loss(guide, guide)
    with handler, pytest.warns(DependentParticlesWarning):
        dsvi.IWAE(4).loss(guide, guide)
    with handler, pytest.raises(IncompatibleSite, match="'z': quasi_monte_carlo"):
        dsvi.DReG(4).loss_and_grads(guide, guide)


def test_same_seed_same_points():
    for wrapped in (False, True):
        run = Run("sobol", 4, True, wrapped=wrapped)
        run.points()
        torch.manual_seed(5)
        first = run.points()
        torch.manual_seed(5)
        assert torch.equal(first, run.points())


def test_inner_handler_wins():
    drawn = []

    def guide():
        drawn.append(pyro.sample("z", dist.Normal(f64(0.0), 1.0)))

    objective = dsvi.PathwiseELBO(num_particles=4, vectorize_particles=True)
    with dsvi.handlers.quasi_monte_carlo(), dsvi.handlers.antithetic():
        objective.loss(guide, guide)
    assert torch.equal(drawn[-2][::2], -drawn[-2][1::2])
    with dsvi.handlers.antithetic(), dsvi.handlers.quasi_monte_carlo():
        objective.loss(guide, guide)
    assert not torch.equal(drawn[-2][::2], -drawn[-2][1::2])

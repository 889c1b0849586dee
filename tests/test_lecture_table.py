r"""The lecture's table of unbiased stochastic gradients, row by row, each against the exact one.

=================================================  ============================================
:math:`f(x)`                                       its stochastic gradient
=================================================  ============================================
:math:`\sum_{i \le n} f_i(x)`                      :math:`n \nabla f_i(x)`, i uniform
:math:`\int p(y) h(x, y) dy`                       :math:`\partial_x h(x, \hat y)`
:math:`\sum_i \int p(y) h_i(x, y) dy`              :math:`n\, \partial_x h_i(x, \hat y)`
:math:`\int p(y \mid x) h(x, y) dy`                :math:`h \,\partial_x \log p(\hat y \mid x)
                                                   + \partial_x h(x, \hat y)`
=================================================  ============================================

Each row is a pair of programs.  What is summed or integrated is a factor of the model; the density
of y is the guide's, masked as a cost in both programs, so that h alone is what y answers for.
Every draw and every minibatch is visited, and *each* gradient is the one in the table.
"""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

import pyro_dsvi as dsvi
from tests.oracles import Force
from tests.scenarios import f64

N = 4
SHIFT = f64([0.3, -0.8, 1.1, 0.4])
CENTRES = f64([-1.0, 0.5, 2.0])
P = f64([0.2, 0.5, 0.3])  # of a y that takes three values
START = 0.7


def x() -> Tensor:
    return pyro.param("x", f64(START))


def h(x: Tensor, y: Tensor, shift: Tensor | float = 0.0) -> Tensor:
    """A cost without symmetry in x or y: at the centre that y says, moved by the datum."""
    return (x + shift).sin() * CENTRES[y.long()] + x**2 / (2 + y)


def draw_y(p: Tensor | None = None) -> Tensor:
    with poutine.mask(mask=False):
        return pyro.sample("y", dist.Categorical(P if p is None else p))


def estimate(model, guide, estimators=None, **draws: Tensor) -> Tensor:
    """The gradient in x of one step at the given draws."""
    pyro.clear_param_store()
    x()
    objective = dsvi.Objective(dsvi.bounds.Evidence(), estimators=estimators)
    with Force([draws]):
        objective.loss_and_grads(model, guide)
    return -pyro.param("x").grad


def exact(f) -> Tensor:
    at = f64(START).requires_grad_()
    return torch.autograd.grad(f(at), at)[0]


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def one_of_n():
    return pyro.plate("data", N, subsample_size=1)


def test_sum():
    """One term in n, times n."""

    def model():
        with one_of_n() as i:
            pyro.factor("f", (x() + SHIFT[i]).sin())

    def guide():
        pass

    steps = [estimate(model, guide, data=torch.tensor([i])) for i in range(N)]
    for i, step in enumerate(steps):
        assert_equal(step, N * exact(lambda x, i=i: (x + SHIFT[i]).sin()))
    assert_equal(torch.stack(steps).mean(), exact(lambda x: (x + SHIFT).sin().sum()))


def test_expectation():
    """The density has no parameter: the gradient of h at the draw, and no score."""

    def model():
        pyro.factor("h", h(x(), draw_y()))

    steps = torch.stack([estimate(model, draw_y, y=f64(float(y))) for y in range(3)])
    for y, step in enumerate(steps):
        assert_equal(step, exact(lambda x, y=y: h(x, f64(y))))
    assert_equal(P @ steps, exact(lambda x: P @ h(x, torch.arange(3))))


@pytest.mark.parametrize("inside", [True, False], ids=["expectations summed", "sum expected"])
def test_sum_of_expectations(inside):
    """Either order: y drawn for the datum, within the plate, or once, before the datum is."""

    def model():
        if not inside:
            y = draw_y()
        with one_of_n() as i:
            if inside:
                y = draw_y()
            pyro.factor("h", h(x(), y, SHIFT[i]))

    def guide():
        if inside:
            with one_of_n():
                draw_y()
        else:
            draw_y()

    total = f64(0.0)
    for i in range(N):
        for y in range(3):
            step = estimate(model, guide, data=torch.tensor([i]), y=torch.tensor(y))
            assert_equal(step, N * exact(lambda x, i=i, y=y: h(x, f64(y), SHIFT[i])))
            total = total + P[y] / N * step
    every = torch.arange(3)
    assert_equal(total, exact(lambda x: (P * h(x, every, SHIFT[:, None])).sum()))


def p_of(x: Tensor) -> Tensor:
    return torch.stack([x, x**2, 1 - x]).softmax(0)


def test_density_that_depends_on_the_parameter():
    """Both terms: h times the score of the density, and the path through h itself."""

    def model():
        pyro.factor("h", h(x(), draw_y()))

    def guide():
        draw_y(p_of(x()))

    steps = torch.stack([estimate(model, guide, y=torch.tensor(y)) for y in range(3)])
    p = p_of(f64(START))
    for y, step in enumerate(steps):
        score = exact(lambda x, y=y: p_of(x)[y].log())
        path = exact(lambda x, y=y: h(x, f64(y)))
        assert_equal(step, h(f64(START), f64(y)) * score + path)
    assert_equal(p @ steps, exact(lambda x: p_of(x) @ h(x, torch.arange(3))))


@pytest.mark.parametrize("estimator", [dsvi.ScoreFunction(), dsvi.Pathwise()], ids=repr)
def test_density_that_depends_on_the_parameter_through_its_location(estimator):
    r"""The same for a Normal y and a cubic cost, which quadrature integrates without error.

    By the score, :math:`h \,\partial_x \log p + \partial_x h`; pathwise, with :math:`y = x +
    \varepsilon`, the total derivative.  The expectation is the same.
    """

    def cost(x, y):
        return x * y**3 - y**2

    def normal(loc):
        with poutine.mask(mask=False):
            return pyro.sample("y", dist.Normal(loc, f64(1.0)))

    def model():
        pyro.factor("h", cost(x(), normal(x())))

    def guide():
        normal(x())

    noise = f64([-(3**0.5), 0.0, 3**0.5])
    weight = f64([1 / 6, 2 / 3, 1 / 6])  # exact up to the fifth power of the noise
    steps = torch.stack([estimate(model, guide, {"y": estimator}, y=e) for e in noise])
    for step, e in zip(steps, noise, strict=True):
        if estimator.passes_gradient:
            expected = exact(lambda x, e=e: cost(x, x + e))
        else:
            y = START + e
            expected = cost(START, y) * e + exact(lambda x, y=y: cost(x, y))
        assert_equal(step, expected)
    # E[(x + ε)³] = x³ + 3x and E[(x + ε)²] = x² + 1
    assert_equal(weight @ steps, exact(lambda x: x**4 + 3 * x**2 - x**2 - 1))

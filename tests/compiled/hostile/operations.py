"""Torch's harder operations: samplers, factorisations, transforms, gradients of one's own."""

import pyro
import pyro.distributions as dist
import torch
from pyro import param, sample
from pyro.distributions import constraints

from tests.compiled.hostile.case import (
    CHANGE,
    Case,
    Hostile,
    X,
    Y,
    around_zero,
    mean_field,
    observe,
)


def rejection_samplers():
    """Gamma, Beta and Dirichlet with their gradients, and Poisson without."""

    def model():
        g = sample("g", dist.Gamma(2.0 * torch.ones(()), 1.0))
        p = sample("p", dist.Dirichlet(torch.ones(3)))
        b = sample("b", dist.Beta(torch.ones(()), 2.0))
        n = sample("n", dist.Poisson(torch.tensor(2.0)))
        observe(g * X + p[0] - b + 0.1 * n)

    def guide():
        a = param("a", torch.tensor(1.5), constraint=constraints.positive)
        sample("g", dist.Gamma(a, 1.0))
        sample("p", dist.Dirichlet(param("c", torch.ones(3), constraint=constraints.positive)))
        sample("b", dist.Beta(a, 1.0))
        sample("n", dist.Poisson(a))

    return Case(model, guide)


def samplers_that_look():
    """Categories, one-hot categories and angles."""

    def model():
        c = sample("c", dist.Categorical(torch.ones(3) / 3))
        o = sample("o", dist.OneHotCategorical(torch.ones(4) / 4))
        v = sample("v", dist.VonMises(torch.zeros(()), 1.0))
        observe(c * X + o[1] + v)

    def guide():
        logits = param("logits", torch.zeros(4))
        sample("c", dist.Categorical(logits=logits[:3]))
        sample("o", dist.OneHotCategorical(logits=logits))
        sample("v", dist.VonMises(param("at", torch.tensor(0.2)), 2.0))

    return Case(model, guide)


class Doubled(torch.autograd.Function):
    """Twice the number, with a gradient that depends on a number of Python's."""

    factor = 2.0

    @staticmethod
    def forward(ctx, x):
        return 2.0 * x

    @staticmethod
    def backward(ctx, gradient):
        return Doubled.factor * gradient


def a_function_with_its_own_gradient():
    """The backward pass reads a number that changes."""

    def model():
        observe(Doubled.apply(around_zero()) * X)

    def before(step):
        Doubled.factor = 2.0 if step < CHANGE else 1.0

    return Case(model, mean_field(), before)


def linear_algebra():
    """Factorisations, solutions, contractions, a determinant, and views written in place."""

    def model(a):
        z = around_zero()
        root = torch.linalg.cholesky(a + z.square() * torch.eye(3))
        solved = torch.linalg.solve(a, root)
        parts = torch.zeros(3, 3)
        parts[1:] = solved[1:]
        parts.diagonal().add_(z)
        value = torch.einsum("ij,jk->ik", parts, root).sum() + torch.logdet(a)
        observe(value * X)

    def args(step):
        return (torch.eye(3) * 2.0 + 0.1 * torch.ones(3, 3) * (step % 5),)

    return Case(model, mean_field(), args=args)


def functional_transforms():
    """One vmap in another, a gradient in the model, and a part without gradient."""

    def model():
        z = around_zero()
        outer = torch.vmap(torch.vmap(lambda a, b: a * b + z, (None, 0)), (0, None))(X, Y)
        slope = torch.func.grad(lambda w: (w * z).sin())(torch.ones(()))
        with torch.no_grad():
            shift = z.exp()
        observe(outer.mean(0) + slope + shift)

    return Case(model, mean_field())


def a_checkpointed_part():
    """A part is computed again in the backward pass."""
    from torch.utils.checkpoint import checkpoint

    def model():
        z = around_zero()
        observe(checkpoint(lambda z: (z * X).sin(), z, use_reentrant=False))

    return Case(model, mean_field())


def validation_that_refuses():
    """The support of an observation is checked when it is run eagerly: data move outside it."""

    def model(y):
        z = around_zero()
        with pyro.plate("data", 12):
            sample("y", dist.Exponential((z * X).exp()), obs=y)

    return Case(model, mean_field(), args=lambda step: (Y.abs() * (1.0 + step),))


PROGRAMS = [
    Hostile(rejection_samplers, tame=True),
    Hostile(samplers_that_look, "in Python"),
    Hostile(a_function_with_its_own_gradient),
    Hostile(linear_algebra, tame=True),
    Hostile(functional_transforms, tame=True),
    Hostile(a_checkpointed_part, tame=True),
    Hostile(validation_that_refuses, tame=True),
]

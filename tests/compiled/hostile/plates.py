"""Programs whose plates, masks and sites change."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine, sample

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


def changing_subsample_sizes():
    """A plate's minibatch gets larger."""
    size = {"batch": 3}

    def model():
        z = around_zero()
        with pyro.plate("data", 12, subsample_size=size["batch"]) as rows:
            sample("y", dist.Normal(z * X[rows], 1.0), obs=Y[rows])

    def before(step):
        size["batch"] = 3 if step < CHANGE else 12 if step == 12 else 6

    return Case(model, mean_field(), before)


def subsamples_of_a_large_plate():
    """Few of very many, new ones at each step, the same for model and guide."""
    data = torch.linspace(-1.0, 1.0, 100_000)

    def model():
        z = around_zero()
        with pyro.plate("data", len(data), subsample_size=5) as rows:
            w = sample("w", dist.Normal(z, 1.0))
            sample("y", dist.Normal(w, 1.0), obs=data[rows])

    def guide():
        mean_field()()
        with pyro.plate("data", len(data), subsample_size=5) as rows:
            loc = pyro.param("loc w", lambda: torch.zeros(len(data)))
            sample("w", dist.Normal(loc[rows], 1.0))

    return Case(model, guide)


def given_subsamples():
    """The indices are the user's, and change."""

    def model(rows):
        z = around_zero()
        with pyro.plate("data", 12, subsample=rows):
            sample("y", dist.Normal(z * X[rows], 1.0), obs=Y[rows])

    def args(step):
        return (torch.tensor([step % 12, (5 * step + 1) % 12, 7]),)

    return Case(model, mean_field(), args=args)


def masks_that_change():
    """Which data count is a tensor, by its content."""

    def model(mask):
        z = around_zero()
        with pyro.plate("data", 12), poutine.mask(mask=mask):
            sample("y", dist.Normal(z * X, 0.5).mask(X > 0), obs=Y)

    return Case(model, mean_field(), args=lambda step: (-0.8 + 0.1 * step < Y,))


def data_chosen_by_a_mask():
    """Which data count is a tensor, and the others are left out: their number changes."""

    def model(x):
        observe(around_zero() * x[x > 0], Y[x > 0])

    return Case(model, mean_field(), args=lambda step: (X + 0.1 * step,))


def a_program_exchanged():
    """The inference is told another model between steps."""
    current = [lambda z: z, lambda z: z.exp()]
    which = 0

    def model():
        observe(current[which](around_zero()))

    def before(step):
        nonlocal which
        which = step // CHANGE

    return Case(model, mean_field(), before)


def sites_that_come_and_go():
    """A latent is there in some steps only, by a flag."""
    flag = {"more": False}

    def model():
        z = around_zero()
        w = around_zero("w") if flag["more"] else 0.0
        observe(z + w)

    def guide():
        mean_field("z w" if flag["more"] else "z")()

    def before(step):
        flag["more"] = step % 8 >= 5

    return Case(model, guide, before)


PROGRAMS = [
    Hostile(changing_subsample_sizes),
    Hostile(subsamples_of_a_large_plate, tame=True),
    Hostile(given_subsamples, tame=True),
    Hostile(masks_that_change, tame=True),
    Hostile(data_chosen_by_a_mask, "shape"),
    Hostile(a_program_exchanged),
    Hostile(sites_that_come_and_go, free=True),
]

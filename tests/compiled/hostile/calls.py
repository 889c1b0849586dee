"""Programs that are called otherwise than they were recorded: arguments, dtypes, plates."""

import contextlib

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


def line(x, y=None):
    observe(around_zero() * x, y)


def changing_batches():
    """The last batch of each round is smaller."""

    def args(step):
        rows = slice(4) if step % 3 == 2 else slice(None)
        return X[rows], Y[rows]

    return Case(line, mean_field(), args=args)


def batches_of_all_sizes():
    """No two steps see the same number of data."""
    return Case(line, mean_field(), args=lambda step: (X[: 3 + step % 9], Y[: 3 + step % 9]))


def changing_dtypes():
    """Data in single precision, then in double."""

    def args(step):
        dtype = torch.float64 if step < CHANGE else torch.float32
        return X.to(dtype), Y.to(dtype)

    return Case(line, mean_field(), args=args)


def changing_strides():
    """The same data, laid out otherwise."""
    wide = torch.stack([X, -X, Y], -1)

    def args(step):
        return (wide[:, 0] if step < CHANGE else wide[:, 2],)

    return Case(line, mean_field(), args=args, state=lambda: [wide])


def changing_default_dtype():
    """What torch makes of Python numbers changes."""

    def model():
        observe(around_zero() * torch.full((12,), 1 / 3).double())

    def around(step):
        return default_dtype(torch.float64 if step < CHANGE else torch.float16)

    return Case(model, mean_field(), around=around)


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def autocast():
    """Products in half the precision, from some step on."""
    matrix = torch.linspace(-1, 1, 144).reshape(12, 12).float()

    def model():
        z = around_zero()
        observe((z.float() * matrix) @ matrix[0] * 0.1)

    def around(step):
        return torch.autocast("cpu", torch.bfloat16, enabled=step >= CHANGE)

    return Case(model, mean_field(), around=around)


def the_same_tensor_twice():
    """Two arguments are one tensor while it is recorded, and two later."""

    def args(step):
        return (X, X) if step < CHANGE else (X, Y)

    return Case(line, mean_field(), args=args)


def two_tensors_then_one():
    """And the other way round."""

    def args(step):
        return (X, Y) if step < CHANGE else (X, X)

    return Case(line, mean_field(), args=args)


def an_argument_that_is_closed_over():
    """The argument is the very tensor that the program knows by name, and then another."""

    def model(x):
        observe(around_zero() * x + X)

    return Case(model, mean_field(), args=lambda step: (X if step < CHANGE else Y,))


def an_argument_changed_in_place():
    """The program writes to its argument."""
    x = X.clone()

    def model(x):
        z = around_zero()
        x += 0.1
        observe(z * x)

    return Case(model, mean_field(), args=lambda step: (x,), state=lambda: [x])


def overlapping_arguments_changed_in_place():
    """It writes to one argument, and reads it from the other."""
    x = torch.linspace(-1.0, 1.0, 16)

    def model(x, y):
        z = around_zero()
        x += 0.1
        observe(z * y)

    def args(step):
        return (x[:12], x[2:14]) if step < CHANGE else (x[:12], x[:12].clone())

    return Case(model, mean_field(), args=args, state=lambda: [x])


def a_parameter_as_argument():
    """A leaf that requires a gradient is passed in, then another one."""
    leaves = [torch.full((), 0.5).requires_grad_(), torch.full((), 2.0).requires_grad_()]

    def model(w):
        observe(around_zero() * w)

    def args(step):
        return (leaves[step >= CHANGE],)

    return Case(model, mean_field(), args=args, state=lambda: [t.detach() for t in leaves])


def an_argument_that_carries_a_gradient():
    """A tensor computed from a leaf, outside."""
    leaf = torch.full((), 0.5).requires_grad_()

    def model(w):
        observe(around_zero() * w)

    return Case(model, mean_field(), args=lambda step: (leaf * (1 + step),))


def nested_arguments():
    """A dictionary of lists of tensors and numbers."""

    def model(batch):
        z = around_zero()
        with poutine.scale(scale=batch["settings"][0]):
            observe(z * batch["x"][1])

    def args(step):
        return ({"x": [X, Y * (1 + step)], "settings": (1.0 if step < CHANGE else 0.3,)},)

    return Case(model, mean_field(), args=args)


def a_text_as_argument():
    """A word says which likelihood it is."""

    def model(kind):
        z = around_zero()
        with pyro.plate("data", 12):
            family = {"normal": dist.Normal, "laplace": dist.Laplace}[kind]
            sample("y", family(z * X, 0.5), obs=Y)

    return Case(model, mean_field(), args=lambda step: ("normal" if step % 6 < 4 else "laplace",))


def an_object_as_argument():
    """An object of the user's class, with a tensor and a number in it."""

    class Batch:
        def __init__(self):
            self.x, self.weight = X, 1.0

    batch = Batch()

    def model(batch):
        with poutine.scale(scale=batch.weight):
            observe(around_zero() * batch.x)

    def before(step):
        batch.x = X * (1 + 0.1 * step)
        batch.weight = 1.0 if step < CHANGE else 0.2

    return Case(model, mean_field(), before, lambda step: (batch,))


def an_iterator_as_argument():
    """The program takes the next batch by itself."""
    batches = iter([X + 0.1 * i for i in range(100)])

    def model(batches):
        observe(around_zero() * next(batches))

    return Case(model, mean_field(), args=lambda step: (batches,))


PROGRAMS = [
    Hostile(changing_batches),
    Hostile(batches_of_all_sizes, free=True),
    Hostile(changing_dtypes),
    Hostile(changing_strides, tame=True),
    Hostile(changing_default_dtype),
    Hostile(autocast),
    Hostile(the_same_tensor_twice),
    Hostile(two_tensors_then_one, tame=True),
    Hostile(an_argument_that_is_closed_over),
    Hostile(an_argument_changed_in_place, tame=True),
    Hostile(overlapping_arguments_changed_in_place, tame=True),
    Hostile(a_parameter_as_argument),
    Hostile(an_argument_that_carries_a_gradient, "gradient"),
    Hostile(nested_arguments),
    Hostile(a_text_as_argument),
    Hostile(an_object_as_argument, free=True),
    Hostile(an_iterator_as_argument, ""),
]

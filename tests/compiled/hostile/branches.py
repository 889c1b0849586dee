"""Programs that look at a tensor, or at Python, and go one way or the other."""

import itertools
import time
from collections import deque

import pyro
import pyro.distributions as dist
import torch
from pyro import param, sample

from tests.compiled.hostile.case import CHANGE, Case, Hostile, X, around_zero, mean_field, observe


def branch_on_a_latent():
    """The sign of a draw decides."""

    def model():
        z = around_zero()
        observe(2.0 * z if z > 0.3 else z.exp())

    return Case(model, mean_field())


def branch_on_data():
    """The content of an argument decides; its shape stays."""

    def model(x):
        z = around_zero()
        observe(z * x if x.sum() > 0 else z - x)

    return Case(model, mean_field(), args=lambda step: ((X + 0.1) * (-1.0) ** step,))


def branch_on_a_parameter():
    """The value of a parameter decides, and it moves."""

    def model():
        z = around_zero()
        observe(3.0 * z if torch.sin(40.0 * param("loc z")) > 0 else z + 1.0)

    return Case(model, mean_field())


def branch_on_a_tensor_in_a_comprehension():
    """A Python list is filtered by tensors."""

    def model():
        z = around_zero()
        near = [i for i in range(12) if abs(X[i] - z) < 1.0]
        observe(z + 0.1 * len(near))

    return Case(model, mean_field())


def loop_until_a_tensor_is_small():
    """The number of turns depends on a draw."""

    def model():
        z = around_zero()
        x = z
        while x.abs() > 0.1:
            x = 0.5 * x
        observe(z + x)

    return Case(model, mean_field())


def reading_by_item():
    """A draw becomes a Python number on its way."""

    def model():
        z = around_zero()
        observe(z + 0.5 * z.item())

    return Case(model, mean_field())


def reading_by_float_list_and_numpy():
    """The other ways out of torch, of the data."""

    def model(x):
        z = around_zero()
        a, b, c = float(x[0]), x.tolist()[1], x.numpy()[2]
        observe(a * z + b + c)

    return Case(model, mean_field(), args=lambda step: (X + step,))


def reading_a_shape():
    """How many numbers are positive is a shape, and the shape is a number."""

    def model(x):
        z = around_zero()
        observe(z * len(torch.nonzero(x > 0)))

    return Case(model, mean_field(), args=lambda step: (X + 0.1 * step,))


def reading_in_cpp():
    """The places at which to split are read without a word by torch's C++."""

    def model(where):
        z = around_zero()
        first, second = torch.tensor_split(X, where)
        observe(z * torch.cat([first, -second]))

    return Case(model, mean_field(), args=lambda step: (torch.tensor([3 if step < CHANGE else 7]),))


def packed_sequences():
    """A recurrent network reads the lengths of sequences in C++."""
    torch.manual_seed(0)
    net = torch.nn.GRU(1, 2, batch_first=True)
    pack = torch.nn.utils.rnn.pack_padded_sequence

    def model(x, lengths):
        pyro.module("net", net)
        z = around_zero()
        _, last = net(pack(x, lengths, batch_first=True, enforce_sorted=False))
        observe(z + last[0].sum(-1), torch.ones(2))

    x = X.reshape(2, 6, 1)

    def args(step):
        return x, torch.tensor([6, 2] if step < CHANGE else [3, 5])

    return Case(model, mean_field(), args=args)


def nan_guard_that_branches():
    """Data that are not numbers are left out, when there are any."""

    def model(x):
        z = around_zero()
        if torch.isnan(x).any():
            x = torch.zeros_like(x)
        observe(z + x)

    return Case(model, mean_field(), args=lambda step: (X if step < CHANGE else X.log(),))


def nan_guard_without_a_branch():
    """The same by ``nan_to_num``, which a replay can do."""

    def model(x):
        z = around_zero()
        observe(z + torch.nan_to_num(x) + torch.where(x > 0, x, 0.0))

    return Case(model, mean_field(), args=lambda step: (X if step < CHANGE else X.log(),))


def errors_now_and_then():
    """The model raises at some steps; what was learnt before and after must stand."""

    def model(x):
        z = around_zero()
        if x[0] < -100:
            raise ArithmeticError("no such data")
        observe(z + x)

    return Case(model, mean_field(), args=lambda step: (X - 1000 * (step in (1, 5, 9, 10)),))


def errors_of_a_factorisation():
    """A matrix is not positive definite at some steps."""

    def model(a):
        z = around_zero()
        observe(z * torch.linalg.cholesky(a).sum())

    def args(step):
        return (torch.eye(2) * (-1.0 if step in (6, 10) else 1.0 + 0.1 * step),)

    return Case(model, mean_field(), args=args)


def a_clock():
    """Time goes into the model."""
    clock = itertools.count()

    def model():
        z = around_zero()
        observe(z + 0.1 * (time.monotonic_ns() * 0 + next(clock)))

    return Case(model, mean_field())


def a_record_of_draws():
    """Each step writes down its draw: a side effect that a replay has not."""
    seen = deque(maxlen=5)

    def model():
        z = around_zero()
        seen.append(z.detach())
        observe(z)

    return Case(model, mean_field(), state=lambda: [len(seen), *seen])


def a_growing_list():
    """Each step sees the draws of all steps before it."""
    seen = []

    def model():
        z = around_zero()
        seen.append(z.detach())
        observe(z + 0.1 * sum(seen))

    return Case(model, mean_field(), state=lambda: [len(seen)])


def the_draw_before():
    """A chain from step to step, through a name."""
    last = {"z": torch.zeros(())}

    def model():
        z = around_zero()
        observe(z + 0.5 * last["z"])
        last["z"] = z.detach()

    return Case(model, mean_field(), state=lambda: [last["z"]])


def sequential_plates_of_changing_length():
    """A loop over as many data as there are by now."""
    data = [0.3, -0.2]

    def model():
        z = around_zero()
        for i in pyro.plate("data", len(data)):
            sample(f"y {i}", dist.Normal(z, 1.0), obs=torch.tensor(data[i]))

    def before(step):
        if step in (5, CHANGE, 11):
            data.append(0.1 * step)

    return Case(model, mean_field(), before)


PROGRAMS = [
    Hostile(branch_on_a_latent, "site 'z'"),
    Hostile(branch_on_data, "read in Python"),
    Hostile(branch_on_a_parameter, "read in Python"),
    Hostile(branch_on_a_tensor_in_a_comprehension, "read in Python"),
    Hostile(loop_until_a_tensor_is_small, "read in Python"),
    Hostile(reading_by_item, "read in Python"),
    Hostile(reading_by_float_list_and_numpy, "in Python"),
    Hostile(reading_a_shape, "shape"),
    Hostile(reading_in_cpp, free=True),
    Hostile(packed_sequences, ""),
    Hostile(nan_guard_that_branches, "read in Python"),
    Hostile(nan_guard_without_a_branch, tame=True),
    Hostile(errors_now_and_then, "read in Python"),
    Hostile(errors_of_a_factorisation, tame=True),
    Hostile(a_clock, ""),
    Hostile(a_record_of_draws, free=True),
    Hostile(a_growing_list, "seen"),
    Hostile(the_draw_before, "last"),
    Hostile(sequential_plates_of_changing_length, "pyro.plat"),
]

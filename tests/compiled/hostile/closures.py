"""Programs that close over tensors, arrays and lists, which change."""

import functools

import numpy as np
import pyro.distributions as dist
import torch
from pyro import poutine, sample

from tests.compiled.hostile.case import (
    CHANGE,
    Box,
    Case,
    Hostile,
    X,
    Y,
    around_zero,
    mean_field,
    observe,
    plain_model,
)

TEMPERATURE = 1.0
OFFSET = torch.zeros(12, dtype=torch.float64)


def a_global_number_rebound():
    """A global of this module gets another value."""

    def model():
        observe(around_zero(), scale=TEMPERATURE)

    def before(step):
        global TEMPERATURE
        TEMPERATURE = 1.0 if step < CHANGE else 0.3

    return Case(model, mean_field(), before)


def a_global_tensor_rebound():
    """A global of this module becomes another tensor."""

    def model():
        observe(around_zero() + OFFSET)

    def before(step):
        global OFFSET
        if step in (0, CHANGE):
            OFFSET = torch.full((12,), float(step))

    return Case(model, mean_field(), before)


def a_tensor_changed_in_place():
    """A tensor that the program closes over gets another content, which a replay follows."""
    offset = torch.zeros(12)

    def model():
        observe(around_zero() + offset)

    return Case(model, mean_field(), lambda step: offset.fill_(0.1 * step), state=lambda: [offset])


def a_tensor_with_other_memory():
    """The same tensor is set to other memory, by ``.data``."""
    offset = torch.zeros(12)

    def model():
        observe(around_zero() + offset)

    def before(step):
        offset.data = torch.full((12,), 0.1 * step)

    return Case(model, mean_field(), before)


def a_tensor_that_grows():
    """The same tensor gets more elements."""
    data = Y[:4].clone()

    def model():
        observe(around_zero(), data)

    def before(step):
        if step in (5, CHANGE, 12):
            data.data = torch.cat([data.data, Y[: step // 2]])

    return Case(model, mean_field(), before)


def data_behind_a_memo():
    """A memoised function gives the tensor; its memory is cleared later."""
    box = Box(0.0)

    @functools.cache
    def offset(size):
        return torch.full((size,), box.value)

    def model():
        observe(around_zero() + offset(12))

    def before(step):
        if step == CHANGE:
            box.value = 2.0
            offset.cache_clear()

    return Case(model, mean_field(), before)


def a_small_array_of_numpy():
    """Numbers in an array of numpy's, changed in place."""
    numbers = np.array([1.0, 0.5])

    def model():
        observe(numbers[0] * around_zero() + torch.tensor(numbers).sum())

    def before(step):
        numbers[:] = (1.0, 0.5) if step < CHANGE else (0.3, 2.0)

    return Case(model, mean_field(), before)


def a_large_array_of_numpy():
    """A buffer that the next batch is written into."""
    batch = np.zeros(2000)

    def model():
        observe(around_zero(), torch.tensor(batch), 5.0)

    def before(step):
        batch[:] = 0.1 * step

    return Case(model, mean_field(), before)


def a_large_array_as_argument():
    """The same, as an argument of the step, and sharing its memory with a tensor."""
    batch = np.zeros(2000)

    def model(x):
        observe(around_zero(), torch.from_numpy(x), 5.0)

    def before(step):
        batch[:] = 0.1 * step

    return Case(model, mean_field(), before, lambda step: (batch,))


def a_long_list():
    """Five hundred Python numbers, of which one changes."""
    numbers = [0.1] * 500

    def model():
        observe(around_zero(), torch.tensor(numbers), 5.0)

    def before(step):
        numbers[400] = 0.1 if step < CHANGE else 50.0

    return Case(model, mean_field(), before)


def a_long_list_of_which_one_is_used():
    """Of three thousand weights one is taken as a number."""
    numbers = [1.0] * 3000

    def model():
        with poutine.scale(scale=numbers[1234]):
            plain_model()

    def before(step):
        numbers[1234] = 1.0 if step < CHANGE else 0.2

    return Case(model, mean_field(), before)


def a_list_too_long_to_watch():
    """Of thirty thousand, one is taken as a number."""
    numbers = [1.0] * 30_000

    def model():
        with poutine.scale(scale=numbers[1234]):
            plain_model()

    def before(step):
        numbers[1234] = 1.0 if step < CHANGE else 0.2

    return Case(model, mean_field(), before)


def an_array_too_large_to_watch():
    """One element of a large array is taken as a number."""
    numbers = np.ones(30_000)

    def model():
        with poutine.scale(scale=float(numbers[1234])):
            plain_model()

    def before(step):
        numbers[1234] = 1.0 if step < CHANGE else 0.2

    return Case(model, mean_field(), before)


def a_distributions_own_tensor():
    """A prior is made once, and gets another scale later."""
    prior = dist.Normal(torch.zeros(()), torch.ones(()))

    def model():
        observe(sample("z", prior) * X)

    def before(step):
        if step == CHANGE:
            prior.scale = torch.full((), 0.1)

    return Case(model, mean_field(), before)


PROGRAMS = [
    Hostile(a_global_number_rebound),
    Hostile(a_global_tensor_rebound),
    Hostile(a_tensor_changed_in_place, tame=True),
    Hostile(a_tensor_with_other_memory, tame=True),
    Hostile(a_tensor_that_grows),
    Hostile(data_behind_a_memo),
    Hostile(a_small_array_of_numpy),
    Hostile(a_large_array_of_numpy, tame=True, free=True),
    Hostile(a_large_array_as_argument, "arguments", tame=True),
    Hostile(a_long_list),
    Hostile(a_long_list_of_which_one_is_used),
    Hostile(a_list_too_long_to_watch, "too many to be watched"),
    Hostile(an_array_too_large_to_watch, "not watched"),
    Hostile(a_distributions_own_tensor),
]

"""Programs that draw elsewhere than from torch's random stream, or move it about."""

import random

import numpy as np
import torch

from tests.compiled.hostile.case import (
    Case,
    Hostile,
    around_zero,
    mean_field,
    observe,
)


def pythons_random_numbers():
    """A number drawn by ``random``."""

    def model():
        observe(around_zero() + random.random())

    return Case(model, mean_field())


def pythons_random_branches():
    """A branch, drawn by ``random``."""

    def model():
        z = around_zero()
        observe(z if random.random() < 0.5 else z + 1.0)

    return Case(model, mean_field())


def numpys_random_numbers():
    """A number drawn by numpy's global generator."""

    def model():
        observe(around_zero() + float(np.random.normal()))  # noqa: NPY002

    return Case(model, mean_field())


def a_generator_of_numpys():
    """A number drawn by a generator of the program's own."""
    generator = np.random.default_rng(0)

    def model():
        observe(around_zero() + generator.normal())

    return Case(model, mean_field())


def a_generator_of_torchs():
    """A number drawn by a generator of torch's that is the program's own."""
    generator = torch.Generator().manual_seed(3)

    def model():
        observe(around_zero() + torch.randn((), generator=generator))

    return Case(model, mean_field(), state=lambda: [generator.get_state()])


def a_program_that_seeds():
    """The random stream starts anew in each step."""

    def model():
        torch.manual_seed(3)
        observe(around_zero() + torch.randn(()))

    return Case(model, mean_field(), state=lambda: [torch.get_rng_state()])


def a_stream_put_back():
    """Draws inside ``fork_rng`` leave the stream where it was."""

    def model():
        with torch.random.fork_rng(devices=[]):
            noise = torch.randn(())
        observe(around_zero() + noise)

    return Case(model, mean_field(), state=lambda: [torch.get_rng_state()])


PROGRAMS = [
    Hostile(pythons_random_numbers, "random"),
    Hostile(pythons_random_branches, "random"),
    Hostile(numpys_random_numbers, "random"),
    Hostile(a_generator_of_numpys, "generator"),
    Hostile(a_generator_of_torchs, tame=True, free=True),
    Hostile(a_program_that_seeds, "random"),
    Hostile(a_stream_put_back, free=True),
]

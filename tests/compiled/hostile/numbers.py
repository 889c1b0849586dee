"""Programs whose Python numbers change: annealing, settings, globals."""

import argparse
import contextvars
import functools
import math
import pathlib
import random
import sys
import tempfile
import types
from dataclasses import dataclass

import numpy as np
import pyro
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
)

TEMPERATURE = 1.0
OFFSET = torch.zeros(12, dtype=torch.float64)


def scaled(model, factor):
    """The program under ``poutine.scale`` with a factor that is asked for at each step."""

    def annealed(*args):
        with poutine.scale(scale=factor()):
            model(*args)

    return annealed


def plain_model():
    observe(around_zero())


def annealing_by_a_counter():
    """The program counts its own steps, in its closure."""
    count = 0

    def factor():
        nonlocal count
        count += 1
        return min(1.0, 0.1 * count)

    return Case(scaled(plain_model, factor), mean_field())


def annealing_from_outside():
    """An attribute is set before each step."""
    box = Box()

    def before(step):
        box.value = 1.0 / (1 + step)

    return Case(scaled(plain_model, lambda: box.value), mean_field(), before)


def annealing_in_stages():
    """An attribute that changes seldom: once during the recording, once after."""
    box = Box()

    def before(step):
        box.value = 0.1 if step < 2 else 0.5 if step < CHANGE else 1.0

    return Case(scaled(plain_model, lambda: box.value), mean_field(), before)


def annealing_by_an_argument():
    """A Python number is an argument, another one at each step."""

    def model(beta):
        with poutine.scale(scale=beta):
            plain_model()

    return Case(model, mean_field(), args=lambda step: (math.exp(-0.1 * step),))


def annealing_by_a_parameter():
    """A parameter serves as the counter, written by the program without gradient."""

    def model():
        steps = pyro.param("steps", torch.zeros(()))
        with torch.no_grad():
            steps += 1
        with poutine.scale(scale=steps.detach() / (1 + steps.detach())):
            plain_model()

    return Case(model, mean_field(), state=lambda: [pyro.param("steps")])


def annealing_by_a_buffer():
    """A module counts in a buffer, in place."""

    class Annealed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

        def forward(self):
            self.steps += 1
            with poutine.scale(scale=1.0 - 0.5**self.steps):
                plain_model()

    model = Annealed()
    return Case(model, mean_field(), state=lambda: [model.steps])


def annealing_by_a_default_argument():
    """The default of an argument is a list, and its content changes."""

    def model(beta=[1.0]):  # noqa: B006
        with poutine.scale(scale=beta[0]):
            plain_model()

    def before(step):
        model.__defaults__[0][0] = 1.0 if step < CHANGE else 0.2

    return Case(model, mean_field(), before)


def annealing_by_a_function_attribute():
    """The program's number hangs on the program."""

    def model():
        with poutine.scale(scale=model.beta):
            plain_model()

    model.beta = 1.0

    def before(step):
        model.beta = 1.0 if step < CHANGE else 0.2

    return Case(model, mean_field(), before)


def settings_parsed_from_a_command_line():
    """A namespace of the standard library holds the settings."""
    settings = argparse.Namespace(beta=1.0)

    def before(step):
        settings.beta = 1.0 if step < CHANGE else 0.2

    return Case(scaled(plain_model, lambda: settings.beta), mean_field(), before)


def settings_in_a_simple_namespace():
    """Another one, two deep."""
    settings = types.SimpleNamespace(train=types.SimpleNamespace(beta=1.0))

    def before(step):
        settings.train.beta = 1.0 if step < CHANGE else 0.2

    return Case(scaled(plain_model, lambda: settings.train.beta), mean_field(), before)


def settings_with_slots():
    """An object that has no ``__dict__``."""

    @dataclass(slots=True)
    class Settings:
        beta: float = 1.0

    settings = Settings()

    def before(step):
        settings.beta = 1.0 if step < CHANGE else 0.2

    return Case(scaled(plain_model, lambda: settings.beta), mean_field(), before)


def settings_in_a_class():
    """The class itself holds the number."""

    class Settings:
        beta = 1.0

    def before(step):
        Settings.beta = 1.0 if step < CHANGE else 0.2

    return Case(scaled(plain_model, lambda: Settings.beta), mean_field(), before)


def settings_in_a_module():
    """A module of Python's, as ``import config`` gives it."""
    config = types.ModuleType("config")
    config.beta = 1.0

    def before(step):
        config.beta = 1.0 if step < CHANGE else 0.2

    return Case(scaled(plain_model, lambda: config.beta), mean_field(), before)


def settings_behind_a_module():
    """A function of this very module, found by its name in ``sys.modules``."""
    box = Box()
    here = sys.modules[__name__]
    here.current_beta = lambda: box.value

    def before(step):
        box.value = 1.0 if step < CHANGE else 0.2

    return Case(scaled(plain_model, lambda: here.current_beta()), mean_field(), before)


def settings_behind_a_property():
    """A property computes the number from a private one."""

    class Schedule:
        def __init__(self):
            self._step = 0

        @property
        def beta(self):
            return 1.0 if self._step < CHANGE else 0.2

    schedule = Schedule()

    def before(step):
        schedule._step = step // 4 * 4

    return Case(scaled(plain_model, lambda: schedule.beta), mean_field(), before)


def settings_in_a_context_variable():
    """Nobody can see when a program asks for it, nor that it changed, but by running it again."""
    beta = contextvars.ContextVar("beta", default=1.0)

    def before(step):
        beta.set(1.0 if step < CHANGE else 0.2)

    return Case(scaled(plain_model, beta.get), mean_field(), before)


def settings_in_a_file():
    """Read at each step."""
    _, path = tempfile.mkstemp()

    def before(step):
        pathlib.Path(path).write_text("1.0" if step < CHANGE else "0.2", "utf-8")

    def factor():
        return float(pathlib.Path(path).read_text("utf-8"))

    return Case(scaled(plain_model, factor), mean_field(), before)


def a_handlers_own_number():
    """The factor of a handler around the model is set anew."""
    handler = poutine.scale(scale=1.0)
    model = handler(plain_model)

    def before(step):
        handler.scale = 1.0 if step < CHANGE else 0.2

    return Case(model, mean_field(), before)


def a_partial_programs_number():
    """The keyword of a ``functools.partial`` is changed in place."""

    def model(beta):
        with poutine.scale(scale=beta):
            plain_model()

    program = functools.partial(model, beta=1.0)

    def before(step):
        program.keywords["beta"] = 1.0 if step < CHANGE else 0.2

    return Case(program, mean_field(), before)


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


def a_distributions_own_tensor():
    """A prior is made once, and gets another scale later."""
    prior = dist.Normal(torch.zeros(()), torch.ones(()))

    def model():
        observe(sample("z", prior) * X)

    def before(step):
        prior.scale = torch.ones(()) if step < CHANGE else torch.full((), 0.1)

    return Case(model, mean_field(), before)


PROGRAMS = [
    Hostile(annealing_by_a_counter, "count"),
    Hostile(annealing_from_outside),
    Hostile(annealing_in_stages),
    Hostile(annealing_by_an_argument),
    Hostile(annealing_by_a_parameter, tame=True),
    Hostile(annealing_by_a_buffer, tame=True),
    Hostile(annealing_by_a_default_argument),
    Hostile(annealing_by_a_function_attribute),
    Hostile(settings_parsed_from_a_command_line),
    Hostile(settings_in_a_simple_namespace),
    Hostile(settings_with_slots),
    Hostile(settings_in_a_class),
    Hostile(settings_in_a_module),
    Hostile(settings_behind_a_module),
    Hostile(settings_behind_a_property),
    Hostile(settings_in_a_context_variable, "seen after", late=True),
    Hostile(settings_in_a_file, "seen after", late=True),
    Hostile(a_handlers_own_number),
    Hostile(a_partial_programs_number),
    Hostile(a_global_number_rebound),
    Hostile(a_global_tensor_rebound),
    Hostile(a_tensor_changed_in_place, tame=True),
    Hostile(a_tensor_with_other_memory, tame=True),
    Hostile(a_tensor_that_grows),
    Hostile(data_behind_a_memo),
    Hostile(a_small_array_of_numpy),
    Hostile(a_large_array_of_numpy, "not watched", tame=True),
    Hostile(a_large_array_as_argument, tame=True),
    Hostile(a_long_list, "not watched"),
    Hostile(a_long_list_of_which_one_is_used),
    Hostile(pythons_random_numbers, "random"),
    Hostile(pythons_random_branches, "random"),
    Hostile(numpys_random_numbers, "random"),
    Hostile(a_generator_of_numpys, "generator"),
    Hostile(a_generator_of_torchs, tame=True),
    Hostile(a_program_that_seeds, "random"),
    Hostile(a_stream_put_back, ""),
    Hostile(a_distributions_own_tensor),
]

"""Programs whose Python numbers change: annealing and settings."""

import argparse
import contextvars
import functools
import math
import pathlib
import sys
import tempfile
import types
from dataclasses import dataclass

import pyro
import torch
from pyro import poutine

from tests.compiled.hostile.case import (
    CHANGE,
    Box,
    Case,
    Hostile,
    mean_field,
    plain_model,
    scaled,
)


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


PROGRAMS = [
    Hostile(annealing_by_a_counter, "count"),
    Hostile(annealing_from_outside, free=True),
    Hostile(annealing_in_stages),
    Hostile(annealing_by_an_argument, free=True),
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
    Hostile(settings_behind_a_property, free=True),
    Hostile(settings_in_a_context_variable, "seen after", late=True),
    Hostile(settings_in_a_file, "seen after", late=True),
    Hostile(a_handlers_own_number),
    Hostile(a_partial_programs_number),
]

"""Programs that must not be compiled wrongly."""

from tests.compiled.hostile import branches, calls, modules, numbers, training

PROGRAMS = [
    *branches.PROGRAMS,
    *numbers.PROGRAMS,
    *modules.PROGRAMS,
    *calls.PROGRAMS,
    *training.PROGRAMS,
]

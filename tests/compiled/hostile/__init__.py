"""Programs that must not be compiled wrongly."""

from tests.compiled.hostile import (
    branches,
    calls,
    closures,
    modules,
    numbers,
    operations,
    plates,
    randomness,
    training,
)

FILES = (branches, numbers, closures, randomness, modules, calls, plates, training, operations)
PROGRAMS = [program for file in FILES for program in file.PROGRAMS]

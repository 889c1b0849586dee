"""All contenders of a workload do the same mathematics: nobody is given less work, or other work.

At the first parameters their losses have the same expectation, constants included.  After the same
number of steps they have learnt the same: the same gradient, the same Adam, the same step size.
"""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.contenders.runner import NotAvailable
from benchmarks.programs.eight_schools import EightSchools
from benchmarks.programs.logistic_regression import LogisticRegression
from benchmarks.workloads import HAND, HAND_COMPILED, NUMPYRO_SCAN, UNROLLED, WORKLOADS

DRAWS = {"W1": 400, "W2a": 600, "W2b": 60}
STEPS = {"W1": 60, "W2a": 60, "W2b": 30}
RATES = {"W1": 0.01, "W2a": 0.01, "W2b": 0.01}  # the networks would jump about at this rate
CASES = [
    (name, who)
    for name, workload in WORKLOADS.items()
    for who in workload.contenders(0)
    if who != HAND and (name == "W1" or who not in (HAND_COMPILED, NUMPYRO_SCAN, UNROLLED))
]

pytest.importorskip("sklearn")


def narrow(problem):
    """With a guide so narrow that the loss has little noise to hide a missing constant in."""
    problem.scale = 0.003
    return problem


NARROW = {
    "W1": lambda seed: narrow(EightSchools(seed)),
    "W2a": lambda seed: narrow(LogisticRegression(seed, minibatch=569)),  # all rows at once
}


def build(name, who):
    torch.manual_seed(1)
    workload = replace(WORKLOADS[name], unrolled=5)
    if name in NARROW:
        workload = replace(workload, problem=NARROW[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            runner = workload.contenders(0, rate=RATES.get(name, 1e-3))[who]()
        except NotAvailable as why:
            pytest.skip(str(why))
    return runner


def train(runner, steps):
    with runner.around():
        for _ in range(steps // runner.steps):
            runner.step()
        runner.finish()


def spread(losses):
    return losses.mean(), losses.std(ddof=1) / len(losses) ** 0.5


@pytest.fixture(scope="module")
def by_hand():
    """Of each workload, losses before and after training, by hand."""
    known = {}

    def course(name):
        if name not in known:
            runner = build(name, HAND)
            before = runner.losses(DRAWS.get(name, 20))
            train(runner, STEPS.get(name, 10))
            known[name] = (before, runner.losses(DRAWS.get(name, 20)))
        return known[name]

    return course


@pytest.mark.parametrize(("name", "who"), CASES)
@pytest.mark.filterwarnings("ignore")
def test_contenders_do_the_same(name, who, by_hand):
    workload, steps = WORKLOADS[name], STEPS.get(name, 10)
    before, after = by_hand(name)
    runner = build(name, who)
    mean, error = spread(before)
    mine, my_error = spread(runner.losses(len(before)))
    assert abs(mine - mean) < 4.5 * np.hypot(error, my_error) + 1e-5 * abs(mean)
    if who in workload.less:
        return
    train(runner, steps)
    mean, error = spread(after)
    mine, my_error = spread(runner.losses(len(after)))
    learnt = before.mean() - mean
    assert learnt > 10 * error, "the test is too short to tell anything"
    assert abs(mine - mean) < 0.1 * learnt + 4.5 * np.hypot(error, my_error)

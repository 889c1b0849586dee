"""The benchmarks run, nobody is given less work, and verdicts are those of unrounded numbers."""

import json
import os

import numpy as np
import pyro
import pytest
import torch

from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.credit import variances
from benchmarks.interleave import Contender, Interval, Timing, interleave, pinned, ratio_of_medians
from benchmarks.report import Target, at_least_shown


@pytest.mark.parametrize("name", BENCHMARKS)
def test_runs_and_writes_what_it_found(name, tmp_path, capsys):
    pytest.importorskip("sklearn")
    pyro.param("mine", torch.tensor(1.0))
    threads, cores = torch.get_num_threads(), os.sched_getaffinity(0)
    assert main([name, "--quick", "--out", str(tmp_path)]) == 0
    assert set(pyro.get_param_store()) == {"mine"}
    assert (torch.get_num_threads(), os.sched_getaffinity(0)) == (threads, cores)
    content = json.loads((tmp_path / f"{name}.json").read_text())
    assert (tmp_path / f"{name}.png").stat().st_size > 0
    machine = content["machine_before_and_after"][0]
    assert machine["torch_threads"] == 1
    assert machine["versions"]["torch"] == torch.__version__
    assert content["settings"]["seed"] == 0
    printed = capsys.readouterr().out
    assert content["tables"]
    for target in content["targets"]:
        assert target["what"] in printed
        assert target["found"]["value"] > 0


def test_refuses_an_unknown_name(capsys):
    with pytest.raises(SystemExit):
        main(["no such"])
    assert "credit" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("found", "within_error", "met"),
    [
        (Interval(1.3, 1.2, 1.4), False, True),
        (Interval(1.3000001, 1.2, 1.4), False, False),
        (Interval(1.3000001, 1.2, 1.4), True, True),
        (Interval(1.35, 1.3000001, 1.4), True, False),
    ],
)
def test_verdict_does_not_round(found, within_error, met):
    target = Target("a claim", found, 1.3, within_error)
    assert target.met is met
    assert target.verdict.startswith("met" if met else "MISSED")


def test_what_is_shown_is_never_smaller_than_it_is():
    assert at_least_shown(1.3001) == "1.301"
    assert at_least_shown(1.3) == "1.300"


def test_contenders_take_turns():
    turns = []
    contenders = [
        Contender("often", lambda: turns.append("often")),
        Contender("seldom", lambda: turns.append("seldom"), every=2),
    ]
    timings = interleave(contenders, rounds=4, seed=0, warm_up=1, block_seconds=1e-9, most_steps=1)
    assert turns.count("often") == 1 + 4
    assert turns.count("seldom") == 1 + 2
    assert timings["seldom"].rounds.tolist() == [0, 2]
    assert set(turns[2:4]) == {"often", "seldom"}


def test_ratio_is_taken_over_the_rounds_of_both():
    often = Timing(np.arange(4), np.array([1.0, 9.0, 1.0, 9.0]), np.ones(4), 1)
    seldom = Timing(np.array([0, 2]), np.array([3.0, 3.0]), np.ones(2), 1)
    assert ratio_of_medians(seldom, often, "cpu", seed=0) == Interval(3.0, 3.0, 3.0)


def test_pinning_ends():
    threads, cores = torch.get_num_threads(), os.sched_getaffinity(0)
    with pinned(1):
        assert torch.get_num_threads() == 1
        assert len(os.sched_getaffinity(0)) == 1
    assert (torch.get_num_threads(), os.sched_getaffinity(0)) == (threads, cores)


def test_variances_are_summed_and_compared_on_the_same_draws():
    base = np.random.default_rng(0).normal(size=(4000, 2)) * np.array([1.0, 2.0])
    total, ratio = variances({"base": base, "double": 2 * base}, against="base", seed=0)
    assert total["base"].value == pytest.approx(base.var(0, ddof=1).sum())
    assert total["base"].low < 5 < total["base"].high
    assert (ratio["double"].low, ratio["double"].high) == pytest.approx((4, 4))

"""The benchmarks run, nobody is given less work, and verdicts are those of unrounded numbers."""

import json
import os
from dataclasses import replace

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO

from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.apart import apart
from benchmarks.contenders.runner import NotAvailable
from benchmarks.credit import variances
from benchmarks.interleave import Contender, Interval, Timing, interleave, pinned, ratio_of_medians
from benchmarks.machine import Neighbours
from benchmarks.paired import difference, verdict
from benchmarks.quality import reached
from benchmarks.report import Report, Settings, Target, at_least_shown, text
from benchmarks.speed import build
from benchmarks.workloads import EAGER, EAGER_PYRO, HAND, HAND_PLAIN, WORKLOADS


@pytest.mark.parametrize("name", BENCHMARKS)
def test_runs_and_writes_what_it_found(name, tmp_path, capsys):
    pytest.importorskip("mlxtend" if name in ("kingma", "sparse") else "sklearn")
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


def test_an_interval_of_many_dimensions_holds_its_variance():
    """Summed over many dimensions little is left to chance, but what the resampling takes away."""
    draws = np.random.default_rng(1).normal(size=(50, 2000))
    total, _ = variances({"base": draws}, against="base", seed=0)
    assert total["base"].low < total["base"].value < total["base"].high


def test_what_is_only_asked_for_is_waited_for_within_the_block():
    waited, asked = [], []
    contender = Contender(
        "later", lambda: asked.append(1), steps=5, finish=lambda: waited.append(len(asked))
    )
    timing = interleave([contender], rounds=2, seed=0, warm_up=1, most_steps=3, block_seconds=1.0)
    assert waited == [1, 4, 7]
    assert timing["later"].steps == 15


def test_device_time_is_between_two_events(monkeypatch):
    seen = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            seen.append("event")

        def elapsed_time(self, end):
            return 6.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: seen.append("wait"))
    contender = Contender("one", lambda: seen.append("step"))
    timing = interleave(
        [contender], rounds=1, seed=0, warm_up=1, most_steps=2, block_seconds=1.0, device="cuda"
    )["one"]
    assert seen == ["step", "wait", "event", "step", "step", "event", "wait"]
    assert timing.device == pytest.approx([0.003])


def test_without_a_gpu_it_skips_visibly(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["speed", "--device", "cuda", "--out", str(tmp_path)]) == 0
    assert "skipped" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NotAvailable("no such thing here"), "not available: no such thing"),
        (ValueError(), "FAILED"),
    ],
)
def test_who_cannot_take_part_is_told_and_costs_nobody_else(monkeypatch, error, words):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(TraceMeanField_ELBO, "__init__", fail)
    workload = replace(WORKLOADS["W1"], pyro={"theirs": TraceMeanField_ELBO})
    report = Report("speed", "")
    runners, facts = build(workload, Settings(quick=True), report)
    assert set(runners) == set(facts) == {HAND, HAND_PLAIN, EAGER, EAGER_PYRO, EAGER_PYRO}
    assert any("W1, theirs" in note and words in note for note in report.notes)


def test_a_neighbour_is_noticed(monkeypatch):
    monkeypatch.setattr(Neighbours, "_now", _clock([(10.0, 1.0, 0.0), (16.0, 3.0, 8.0)]))
    with Neighbours() as seen:
        pass
    assert seen.share == pytest.approx(0.5)
    report = Report("speed", "", neighbours=seen.share)
    assert "50% of the cores' time" in text(report, Settings())


def _clock(readings):
    left = iter(readings)
    return lambda self: next(left)


def test_a_process_apart_is_held_to_its_cores():
    assert apart(len_of_affinity, threads=1) == (1, 1, "1")


def len_of_affinity():
    return len(os.sched_getaffinity(0)), torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]


def test_time_to_a_mark_is_that_of_the_first_judgement_there():
    course = ([1.0, 2.0, 4.0], [-9.0, -3.0, -3.5], 7)
    assert reached(course, -9.0) == 1.0
    assert reached(course, -3.2) == 2.0
    assert reached(course, -1.0) == float("inf")


def test_reports_are_joined():
    whole = Report("speed", "", notes=["a"], neighbours=0.1)
    whole.add(Report("speed", "", notes=["a", "b"], data={"x": 1}, waited=0.2))
    assert (whole.notes, whole.data, whole.waited, whole.neighbours) == (
        ["a", "b"],
        {"x": 1},
        0.2,
        0.1,
    )


def test_a_paired_difference_by_hand():
    theirs = np.array([[10.0, -50.0, 3.0], [11.0, -40.0, 5.0]])
    found = difference(theirs + np.array([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]]), theirs)
    assert found.value == pytest.approx(2.5)
    assert found.by_seed == pytest.approx((2.0, 3.0))
    assert found.by_seeds == pytest.approx(0.5)  # of 2 and 3
    assert found.by_data == pytest.approx(1 / 3**0.5)  # of 1.5, 2.5 and 3.5
    assert found.error == pytest.approx((0.25 + 1 / 3) ** 0.5)
    ends = found.interval.low, found.interval.high
    assert ends == pytest.approx((2.5 - 2 * found.error, 2.5 + 2 * found.error))
    assert difference(theirs[:1]).by_seeds is None


def test_a_difference_is_shown_beyond_its_error_and_from_every_seed():
    clear = difference(np.array([[1.0, 1.1], [1.0, 1.2]]))
    of_two_signs = replace(clear, by_seed=(2.2, -0.05))
    vague = difference(np.array([[-1.0, 3.0], [-1.1, 3.1]]))
    assert (clear.clear, of_two_signs.clear, vague.clear) == (True, False, False)
    said = verdict({"A": clear, "B": of_two_signs, "C": vague}, "IWAE")
    assert said.endswith("difference from IWAE: A.  No difference is shown for: B; C")

"""The compiled graph is the recorded one, and passes are run on it."""

import pytest
import torch

import pyro_dsvi as dsvi
from tests.compiled.fitting import assert_same, fit, replays
from tests.compiled.programs import mixed, normal


def test_a_whole_step():
    eager = fit(normal, dsvi.PathwiseELBO())
    compiled = fit(normal, dsvi.PathwiseELBO(compiled=True), whole=True)
    assert_same(eager, compiled)
    assert replays(compiled.svi) > 12


def test_loss_and_gradients_of_discrete_and_rejection_samplers():
    loss = dsvi.VIMCO(2, compiled=dsvi.Compilation(backend="inductor"))
    assert_same(fit(mixed, dsvi.VIMCO(2)), fit(mixed, loss))
    assert replays(loss) > 12


def test_passes_are_run_on_a_copy_and_a_wrong_one_is_found():
    def halve(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
        for node in graph.graph.nodes:
            if node.target is torch.ops.aten.log.default:
                node.target = torch.ops.aten.exp.default
        graph.recompile()
        return graph

    settings = dsvi.Compilation(backend="recorded", passes=(halve,))
    with pytest.warns(dsvi.errors.NotCompiledWarning, match="is not that of the program"):
        compiled = fit(normal, dsvi.PathwiseELBO(compiled=settings))
    assert compiled.losses == fit(normal, dsvi.PathwiseELBO()).losses


def test_a_compiler_that_fails_leaves_the_recorded_graph(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", fail)
    loss = dsvi.PathwiseELBO(compiled=True)
    with pytest.warns(dsvi.errors.NotCompiledWarning, match="no compiler here"):
        compiled = fit(normal, loss)
    assert_same(fit(normal, dsvi.PathwiseELBO()), compiled)
    assert replays(loss) > 12

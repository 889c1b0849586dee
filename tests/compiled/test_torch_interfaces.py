"""The private interfaces that a compiled step rests on; if torch or Pyro changes one, it says so.

Each test names what is used, where, and what was found.
"""

import inspect

import pyro
import pytest
import torch
from pyro.infer.svi import SVI
from pyro.poutine import runtime

USED = "pyro_dsvi/compiled uses it; look there first"


def test_make_fx_records_draws_and_tensors_by_reference():
    from torch.fx.experimental.proxy_tensor import make_fx

    held = torch.ones(3, requires_grad=True)

    def step():
        noise = torch.empty(3).normal_()
        return torch.autograd.grad((held * noise).sum(), held)[0]

    graph = make_fx(step, tracing_mode="real")()
    targets = [node.target for node in graph.graph.nodes]
    assert torch.ops.aten.normal_.default in targets, f"make_fx no longer records draws: {USED}"
    constants = [getattr(graph, n.target) for n in graph.graph.nodes if n.op == "get_attr"]
    assert any(c is held for c in constants), f"make_fx no longer keeps tensors themselves: {USED}"


def test_the_proxy_mode_can_be_left_and_looked_at():
    from torch.fx.experimental import proxy_tensor

    for name in ("disable_proxy_modes_tracing", "get_proxy_mode"):
        assert hasattr(proxy_tensor, name), f"proxy_tensor.{name} is gone: {USED}"


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_inductor_compiles_a_graph_and_follows_the_random_stream():
    from torch._functorch import config as functorch_config
    from torch._inductor import compile_fx, config, decomposition
    from torch._inductor.output_code import CompiledFxGraph

    parameters = inspect.signature(compile_fx.compile_fx).parameters
    asked = {"inner_compile", "config_patches", "decompositions"}
    assert asked <= set(parameters), f"compile_fx: {USED}"
    assert callable(decomposition.select_decomp_table), f"select_decomp_table: {USED}"
    assert hasattr(functorch_config, "enable_autograd_cache"), f"enable_autograd_cache: {USED}"
    assert "current_callable" in CompiledFxGraph.__annotations__, f"CompiledFxGraph: {USED}"
    for name in ("fallback_random", "size_asserts", "alignment_asserts", "cpp_wrapper"):
        assert hasattr(config, name), f"inductor's option {name} is gone: {USED}"


def test_tags_tell_what_depends_on_content():
    aten = torch.ops.aten
    for op, tag in (
        (aten._local_scalar_dense.default, torch.Tag.data_dependent_output),
        (aten.equal.default, torch.Tag.data_dependent_output),
        (aten.nonzero.default, torch.Tag.dynamic_output_shape),
        (aten.masked_select.default, torch.Tag.dynamic_output_shape),
        (aten.index.Tensor, torch.Tag.dynamic_output_shape),
    ):
        assert tag in op.tags, f"{op} lost its tag {tag}: {USED}"


def test_dead_code_elimination_keeps_draws_and_writes():
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    graph.call_function(torch.ops.aten.randn.default, ([2],))
    graph.call_function(torch.ops.aten.copy_.default, (x, x))
    graph.output((x,))
    graph.eliminate_dead_code()
    assert len(graph.nodes) == 4, f"torch.fx drops draws or writes as dead code: {USED}"


def test_function_modes_can_be_counted():
    assert torch._C._len_torch_function_stack() == 0, f"_len_torch_function_stack: {USED}"


def test_any_autocast_is_seen():
    seen = torch._C._is_any_autocast_enabled
    for where in ("cpu", "cuda"):
        try:
            torch.set_autocast_enabled(where, True)
            assert seen(), f"autocast on {where}: {USED}"
        finally:
            torch.set_autocast_enabled(where, False)
        assert not seen(), f"autocast on {where}: {USED}"


def test_fused_adam_takes_lists():
    from torch.optim.adam import adam

    names = inspect.signature(adam).parameters
    for name in ("state_steps", "fused", "decoupled_weight_decay", "maximize"):
        assert name in names, f"torch.optim.adam.adam lost {name}: {USED}"


def test_pyros_stack_and_param_store():
    assert isinstance(runtime._PYRO_STACK, list), f"pyro.poutine.runtime._PYRO_STACK: {USED}"
    value = pyro.param("p", torch.tensor(1.0))
    store = vars(pyro.get_param_store())
    assert store["_params"]["p"] is value.unconstrained(), f"ParamStoreDict._params: {USED}"
    assert "param_only=True" in inspect.getsource(SVI.step), f"SVI.step's trace: {USED}"

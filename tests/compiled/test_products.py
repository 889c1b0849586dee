"""Matrix products of a recorded graph go to the faster library, and only those it can serve."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_dsvi.compiled.products import seconds, with_faster_products

MM, ADDMM = torch.ops.aten.mm.default, torch.ops.aten.addmm.default
OUR_MM, OUR_ADDMM = torch.ops.dsvi.mm.default, torch.ops.dsvi.addmm.default

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN"
)


def onednn_wins(operations, operands):
    return [0.0 if "dsvi" in str(operation) else 1.0 for operation in operations]


def blas_wins(operations, operands):
    return [1.0 if "dsvi" in str(operation) else 0.0 for operation in operations]


def record(program, *args):
    return make_fx(program, tracing_mode="real")(*args)


def targets(graph):
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


def matrix(rows, columns, transposed=False, **options):
    if transposed:
        return torch.randn(columns, rows, **options).t()
    return torch.randn(rows, columns, **options)


@pytest.mark.parametrize("shape", [(128, 300, 200), (7, 2000, 400), (2000, 3, 500), (1, 3000, 900)])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_the_result_is_the_same(shape, first, second, bias):
    m, k, n = shape
    operands = [matrix(m, k, first), matrix(k, n, second)]
    if bias:
        operands.insert(0, torch.randn(n))
    graph = record(torch.addmm if bias else torch.mm, *operands)
    replaced = with_faster_products(graph, seconds=onednn_wins)
    assert targets(replaced) == [OUR_ADDMM if bias else OUR_MM]
    result, exact = replaced(*operands), graph(*(x.double() for x in operands))
    assert result.stride() == (n, 1)
    torch.testing.assert_close(result.double(), exact, rtol=0, atol=2e-6 * k)


def test_products_of_a_slice_and_of_a_broadcast_operand():
    """Strides that are neither row by row nor column by column."""
    wide, row = torch.randn(200, 900), torch.randn(1, 200)

    def program(wide, row):
        part = wide[:, 100:800:2]
        return torch.mm(row.expand(300, 200), part), torch.mm(part.t(), wide)

    graph = record(program, wide, row)
    replaced = with_faster_products(graph, seconds=onednn_wins)
    assert targets(replaced).count(OUR_MM) == 2
    for result, expected in zip(replaced(wide, row), graph(wide, row), strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-3)


def test_only_where_it_is_faster():
    """Shape by shape, and stride by stride."""

    def quick_if_wide(operations, operands):
        wins = operands[-1].shape[1] > 300 and operands[-1].is_contiguous()
        return (onednn_wins if wins else blas_wins)(operations, operands)

    a, b, c, d = matrix(128, 300), matrix(300, 200), matrix(300, 400), matrix(300, 400, True)

    def program(a, b, c, d):
        return torch.mm(a, b), torch.mm(a, c), torch.mm(a, d)

    graph = record(program, a, b, c, d)
    assert targets(with_faster_products(graph, seconds=quick_if_wide)) == [MM, OUR_MM, MM]
    assert with_faster_products(graph, seconds=blas_wins) is graph
    assert targets(graph) == [MM, MM, MM]


@pytest.mark.parametrize(("blas", "replaced"), [(1.0, False), (1.05, False), (1.2, True)])
def test_a_close_race_changes_nothing(blas, replaced):
    a, b = matrix(128, 300), matrix(300, 200)
    graph = record(torch.mm, a, b)
    other = with_faster_products(graph, seconds=lambda *_: [blas, 1.0])
    assert (targets(other) == [OUR_MM]) == replaced


def test_each_kind_of_product_is_timed_once():
    timed = []

    def note(operations, operands):
        timed.append([(tuple(x.shape), x.stride()) for x in operands])
        return onednn_wins(operations, operands)

    a, b = matrix(128, 300), matrix(300, 200)
    graph = record(lambda a, b: torch.mm(torch.mm(torch.mm(a, b), b.t()), b), a, b)
    random_state = torch.get_rng_state()
    assert targets(with_faster_products(graph, seconds=note)).count(OUR_MM) == 3
    assert timed == [
        [((128, 300), (300, 1)), ((300, 200), (200, 1))],
        [((128, 200), (200, 1)), ((200, 300), (1, 200))],
    ]
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize(
    ("program", "operands"),
    [
        pytest.param(torch.mm, lambda: [matrix(20, 30), matrix(30, 20)], id="small"),
        pytest.param(
            torch.mm,
            lambda: [matrix(n, 300, dtype=torch.float64) for n in (128, 300)],
            id="float64",
        ),
        pytest.param(
            torch.mm,
            lambda: [matrix(n, 300).to(torch.bfloat16) for n in (128, 300)],
            id="bfloat16",
        ),
        pytest.param(
            torch.mm,
            lambda: [matrix(n, 300, device="meta") for n in (128, 300)],
            id="another device",
        ),
        pytest.param(
            lambda c, a, b: torch.addmm(c, a, b, beta=0.5),
            lambda: [torch.randn(300), matrix(128, 300), matrix(300, 300)],
            id="scaled bias",
        ),
        pytest.param(
            torch.addmm,
            lambda: [torch.randn(128, 1), matrix(128, 300), matrix(300, 300)],
            id="a bias by row",
        ),
        pytest.param(
            torch.addmm,
            lambda: [torch.randn(1), matrix(128, 300), matrix(300, 300)],
            id="a bias for all",
        ),
        pytest.param(torch.bmm, lambda: [torch.randn(3, 200, 200)] * 2, id="batched"),
    ],
)
def test_what_it_cannot_serve_is_left_alone(program, operands):
    graph = record(program, *operands())
    assert with_faster_products(graph, seconds=onednn_wins) is graph


def test_switched_off_with_onednn(monkeypatch):
    a, b = matrix(128, 300), matrix(300, 200)
    graph = record(torch.mm, a, b)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert with_faster_products(graph, seconds=onednn_wins) is graph


def step(x, w, c, v):
    """A network's loss and gradients, as a recorded step has them."""
    leaves = [t.detach().requires_grad_() for t in (w, c, v)]
    hidden = torch.addmm(leaves[1], x, leaves[0]).tanh()
    loss = (hidden @ leaves[2]).square().mean()
    return loss.detach(), *torch.autograd.grad(loss, leaves)


STEP = [lambda: matrix(128, 300), lambda: matrix(300, 200) / 17]
STEP += [lambda: torch.randn(200), lambda: matrix(200, 100) / 14]


def test_a_step_with_its_gradients():
    inputs = [make() for make in STEP]
    graph = record(step, *inputs)
    replaced = with_faster_products(graph, seconds=onednn_wins)
    assert {MM, ADDMM}.isdisjoint(targets(replaced))
    assert targets(replaced).count(OUR_MM) == 4
    for result, expected in zip(replaced(*inputs), step(*inputs), strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-6)


# of torch's own, when its compiler is first imported
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_inductor_compiles_what_was_replaced():
    inductor = pytest.importorskip("torch._inductor")
    inputs = [make() for make in STEP]
    replaced = with_faster_products(record(step, *inputs), seconds=onednn_wins)
    compiled = inductor.compile(replaced, inputs)
    for result, expected in zip(compiled(*inputs), step(*inputs), strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-6)


def test_the_quicker_operation_has_the_shorter_time():
    def once(x):
        return x.exp()

    def often(x):
        for _ in range(50):
            y = x.exp()
        return y

    slow, quick = seconds([often, once], [torch.ones(1000)])
    assert quick < slow


def test_the_clock_itself_can_choose():
    """Whichever way it goes on this machine, the result is right."""
    a, b = matrix(128, 300), matrix(300, 200)
    graph = with_faster_products(record(torch.mm, a, b))
    assert targets(graph) in ([MM], [OUR_MM])
    torch.testing.assert_close(graph(a, b), a @ b, rtol=1e-4, atol=1e-4)

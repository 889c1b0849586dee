"""One weight in several places: drawn jointly, or refused by name; never taken for independent."""

import pytest
import torch
from torch.nn import functional as F

from pyro_dsvi.errors import IncompatibleSite
from pyro_dsvi.lazy import RULES, Diagonal, Plan, Undrawn, undrawn
from tests.lazy.moments import assert_exact
from tests.lazy.test_laws import low_rank, rows
from tests.lazy.test_layers import FLIPPED, IMAGES, LOCAL, SEQUENCE, TEXT, B, W, X, law, normal

TWICE = {
    "linear": (lambda w: torch.cat([F.linear(X, w), F.linear(X.cos(), w)], -1), [W]),
    "linear, thrice": (
        lambda w: torch.cat([F.linear(x, w) for x in (X, X.cos(), X.square())], -1),
        [W],
    ),
    "linear, by another name": (lambda w: torch.cat([X @ w.T, F.linear(X.cos(), w)], -1), [W]),
    "linear with bias": (
        lambda w, b: torch.cat([F.linear(X, w, b), F.linear(X.cos(), w, b)], -1),
        [W, B],
    ),
    "the same input again": (lambda w: torch.cat([F.linear(X, w), F.linear(X, w)], -1), [W]),
    "a zero in between": (lambda w: torch.cat([F.linear(0 * X, w), F.linear(X, w)], -1), [W]),
    "bias": (lambda b: torch.cat([F.linear(X, W.loc, b), F.linear(X, 2 * W.loc, b)], -1), [B]),
    "positions": (
        lambda w: torch.cat([F.linear(SEQUENCE, w), F.linear(SEQUENCE.cos(), w)], -1),
        [W],
    ),
    "convolution": (
        lambda w, b: torch.cat(
            [F.conv2d(IMAGES, w, b).flatten(1), F.conv2d(IMAGES.cos(), w, b, stride=2).flatten(1)],
            -1,
        ),
        [law(2, 4, 2, 3), law(2)],
    ),
}


@pytest.mark.parametrize("plan", [LOCAL, FLIPPED], ids=["local", "flipout"])
@pytest.mark.parametrize("name", TWICE)
def test_uses_are_drawn_jointly(name, plan, monkeypatch):
    layer, laws = TWICE[name]
    assert_exact(monkeypatch, layer, laws, plan, apart=plan is LOCAL)


def test_an_embedding_is_drawn_jointly(monkeypatch):
    centre, context = torch.tensor([1, 2, 0]), torch.tensor([1, 0, 0])
    layer = lambda w: torch.cat([F.embedding(centre, w), F.embedding(context, w)], -1)  # noqa: E731
    assert_exact(monkeypatch, layer, [W], LOCAL)


def make(w=W, plan=LOCAL):
    return undrawn("w", w, plan, RULES)


def test_a_recurrent_network_has_the_law_of_one_weight():
    """The second step's input depends on the first one's output: moments by simulation."""
    torch.manual_seed(0)
    number, x = 40_000, normal(1, 2)
    square = Diagonal(normal(2, 2), 0.1 + normal(2, 2).abs())
    many = x.expand(number, 2)
    w = make(square)
    ours = F.linear(torch.tanh(F.linear(many, w)), w)
    drawn = square.loc + square.scale * torch.randn(number, 2, 2, dtype=torch.float64)
    hidden = torch.tanh(drawn @ x[0])
    theirs = (drawn @ hidden.unsqueeze(-1)).squeeze(-1)
    for power in (1, 2):
        gap = (ours**power).mean(0) - (theirs**power).mean(0)
        spread = ((ours**power).var(0) + (theirs**power).var(0)) / number
        assert (gap.abs() / spread.sqrt()).max() < 4


REFUSED = {
    "transposed": lambda w: (F.linear(X, w), F.linear(normal(4, 5), w.T)),
    "a part": lambda w: (F.linear(X, w), F.linear(X, w[:2])),
    "parts that overlap": lambda w: (F.linear(X, w[1:4]), F.linear(X, w[3:])),
    "scaled": lambda w: (F.linear(X, w), F.linear(X, 2 * w)),
    "other examples": lambda w: (F.linear(X, w), F.linear(X[:2], w)),
    "positions": lambda w: (F.linear(X, w), F.linear(SEQUENCE, w)),
    "an embedding and its transpose": lambda w: (F.embedding(TEXT, w), F.linear(X, w)),
    "with and without bias": lambda w: (F.linear(X, w, make(B)), F.linear(X, w)),
    "used and drawn": lambda w: (F.linear(X, w), w.norm()),
    "used and shown": lambda w: (F.linear(X, w), float(w[0, 0])),
    "used and stacked": lambda w: (F.linear(X, w), torch.stack([w, w])),
    "written": lambda w: w.mul_(2),
    "written as out": lambda w: torch.add(X, X, out=w),
    "written by index": lambda w: w.__setitem__(0, 1.0),
    "beneath torch's functions": lambda w: torch.vmap(torch.sum)(w),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_need_a_joint_law_is_refused_by_name(name):
    with pytest.raises(IncompatibleSite, match=r"site 'w': local_reparameterization\(\)"):
        REFUSED[name](make())


def test_parts_of_one_row_are_not_taken_for_independent():
    w = make(rows(5, 3))
    F.linear(X[:, :2], w[:, :2])
    with pytest.raises(IncompatibleSite, match="site 'w'"):
        F.linear(X[:, 2:], w[:, 2:])


def test_layers_of_one_low_rank_law_must_have_the_same_examples():
    w = make(low_rank(21))
    F.linear(X, w[:15].view(5, 3))
    with pytest.raises(IncompatibleSite, match="site 'w'"):
        F.linear(X[:2], w[15:].view(2, 3))


def test_a_row_in_full_that_is_cut_to_pieces_is_drawn():
    w = make(rows(8))
    assert F.linear(X, w[:3].view(1, 3)).shape == (4, 1)
    assert w.root.is_drawn


def test_outputs_across_a_row_are_drawn():
    for w in (make(rows(5, 3)), make(low_rank(5, 3))):
        F.embedding(TEXT, w)
        assert w.root.is_drawn
        w = make(rows(3, 5))
        F.linear(X, w.T)
        assert w.root.is_drawn


def test_a_drawn_weight_is_the_same_for_all_its_views():
    w = make()
    part, value = w.T[1:], w.exp().log()
    torch.testing.assert_close(part + 0 * X[:2, :1], value.T[1:])
    torch.testing.assert_close(F.linear(X, w), X @ value.T)
    torch.testing.assert_close(w[0].tolist(), value[0].tolist())
    assert not w.root.uses


def test_arguments_that_no_rule_knows_draw_the_weight():
    w = make()
    torch.testing.assert_close(torch.mul(input=w, other=2), 2 * w)
    assert w.root.is_drawn
    w, out = make(), torch.empty(4, 5, dtype=torch.float64)
    torch.mm(X, w.T, out=out)
    torch.testing.assert_close(out, X @ w.T)
    assert w.root.is_drawn


@pytest.mark.parametrize("name", ["exp", "sum", "norm", "cumsum", "flip", "roll", "index"])
def test_what_is_no_layer_draws_the_weight_once(name):
    calls = {
        "cumsum": lambda w: w.cumsum(0),
        "flip": lambda w: w.flip(0),
        "roll": lambda w: w.roll(1),
        "index": lambda w: w[torch.tensor([0, 0])],
    }
    w = make()
    apply = calls.get(name, lambda w: getattr(w, name)())
    first, second = apply(w), apply(w)
    assert type(first) is torch.Tensor
    assert torch.equal(first, second)


def test_a_weight_repeated_along_its_outputs_is_drawn():
    w = make(law(1, 3))
    out = F.linear(X, w.expand(5, 3))
    assert w.root.is_drawn
    assert torch.equal(out[:, 0], out[:, 1])


def test_a_repeated_weight_in_other_clothes_is_drawn():
    w = make(law(1, 3))
    F.linear(X, w.expand(5, 3).reshape(15).view(5, 3))
    assert w.root.is_drawn


def test_rows_of_zeros_give_zero_gradients():
    loc, scale = W.loc.clone().requires_grad_(), W.scale.clone().requires_grad_()
    x = X.clone()
    x[1] = 0
    x.requires_grad_()
    out = F.linear(x, make(Diagonal(loc, scale)))
    gradients = torch.autograd.grad(out[1].sum(), [loc, scale, x])
    assert torch.equal(gradients[0], torch.zeros_like(loc))
    assert torch.equal(gradients[1], torch.zeros_like(loc))
    assert all(g.isfinite().all() for g in gradients)
    assert torch.equal(out[1], torch.zeros(5, dtype=torch.float64))


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, w):
        return 2 * (w + 0).sum()

    @staticmethod
    def backward(ctx, *gradients):
        return gradients[0] * torch.full((5, 3), 2.0, dtype=torch.float64)


def test_a_gradient_lost_beneath_autograd_is_refused():
    w = make(Diagonal(W.loc.clone().requires_grad_(), W.scale))
    with pytest.raises(IncompatibleSite, match="site 'w': it was left undrawn"):
        Doubled.apply(w).backward()


def test_a_weight_may_be_looked_at_where_gradients_are_off():
    loc = W.loc.clone().requires_grad_()
    w = make(Diagonal(loc, W.scale))
    with torch.no_grad():
        w.norm()
    F.linear(X, w).sum().backward()
    torch.testing.assert_close(loc.grad, X.sum(0).expand(5, 3))


def test_what_is_asked_about_shape_alone_draws_nothing():
    w = make(Diagonal(W.loc.clone().requires_grad_(), W.scale))
    assert (w.shape, w.dim(), w.numel(), len(w), w.size(-1)) == ((5, 3), 2, 15, 5, 3)
    assert (w.dtype, w.device.type, w.requires_grad) == (torch.float64, "cpu", True)
    assert torch.zeros_like(w).shape == w.new_ones(w.shape).shape == (5, 3)
    assert X.expand_as(w[:4]).shape == (4, 3)
    assert (w == w.T.T).all()
    assert torch.equal(w, w.view(15).view(5, 3))
    assert type(w.contiguous().clone().unbind()[2]) is Undrawn
    assert not w.root.is_drawn


def test_the_plan_is_checked():
    with pytest.raises(ValueError, match="conv must be one of 'per_example', 'marginal'"):
        Plan("local_reparameterization()", shared="exact")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="example_dims must be a whole number"):
        Plan("local_reparameterization()", example_dims=-1)

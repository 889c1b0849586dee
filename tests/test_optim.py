"""One fused update for all parameters is the update of each."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from pyro.infer.autoguide import AutoNormal

import pyro_dsvi as dsvi
from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.optim import FusedAdam

DATA = torch.tensor([0.3, -1.2, 2.0])


def model():
    m = pyro.sample("m", dist.Normal(0.0, 2.0))
    s = pyro.sample("s", dist.HalfNormal(1.0))
    with pyro.plate("data", 3):
        pyro.sample("x", dist.Normal(m, s), obs=DATA)


def fit(optim, steps=20, guide=None):
    pyro.set_rng_seed(3)
    guide = guide or AutoNormal(model)
    svi = SVI(model, guide, optim, dsvi.PathwiseELBO())
    for _ in range(steps):
        svi.step()
    return {name: p.detach().clone() for name, p in guide.named_parameters()}


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.05},
        {"lr": 0.05, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1},
        {"lr": 0.05, "maximize": True},
        lambda name: {"lr": 0.05 if name.endswith("m") else 0.01},
    ],
    ids=["lr", "all", "maximize", "by name"],
)
@pytest.mark.parametrize("clip", [None, {"clip_norm": 0.5}], ids=["", "clipped"])
def test_same_as_pyro(options, clip):
    ours = fit(FusedAdam(options, clip))
    pyro.clear_param_store()
    theirs = fit(pyro.optim.Adam(options, clip))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("then", [FusedAdam, pyro.optim.Adam])
@pytest.mark.parametrize("first", [FusedAdam, pyro.optim.Adam])
def test_state_goes_from_one_to_the_other(first, then):
    """Whoever saved it: ten steps, and ten more from the saved state, are twenty."""
    through = fit(pyro.optim.Adam({"lr": 0.05}), 20)
    pyro.clear_param_store()
    guide, optim = AutoNormal(model), first({"lr": 0.05})
    fit(optim, 10, guide)
    state, rng = optim.get_state(), torch.get_rng_state()
    fresh = then({"lr": 0.05})
    fresh.set_state(state)
    svi = SVI(model, guide, fresh, dsvi.PathwiseELBO())
    torch.set_rng_state(rng)
    for _ in range(10):
        svi.step()
    for name, p in guide.named_parameters():
        torch.testing.assert_close(p.detach(), through[name], rtol=1e-5, atol=1e-6)


def test_a_changed_rate_counts_at_once():
    p = pyro.param("p", torch.zeros(2)).unconstrained()
    optim = FusedAdam({"lr": 0.1})
    p.grad = torch.ones(2)
    optim({p})
    optim.optim_objs[p].param_groups[0]["lr"] = 0.0
    before, p.grad = p.detach().clone(), torch.ones(2)
    optim({p})
    assert torch.equal(p.detach(), before)


@pytest.mark.parametrize("what", ["optimizers", "state", "exp_avg", "exp_avg_sq", "step"])
def test_a_reset_counts_at_once(what):
    ends = []
    for make in (FusedAdam, pyro.optim.Adam):
        pyro.clear_param_store()
        p = pyro.param("p", torch.zeros(2)).unconstrained()
        optim = make({"lr": 0.1})
        for step in range(6):
            if step == 4 and what == "optimizers":
                optim.optim_objs.clear()
            elif step == 4 and what == "state":
                optim.optim_objs[p].state.clear()
            elif step == 4:
                optim.optim_objs[p].state[p][what] = torch.ones(() if what == "step" else 2)
            p.grad = torch.tensor([1.0 + step, -3.0 * step])
            optim({p})
        ends.append(p.detach().clone())
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)


def test_a_parameter_without_gradient_is_left_alone():
    p, q = (pyro.param(name, torch.zeros(())).unconstrained() for name in "pq")
    optim = FusedAdam({"lr": 0.1})
    p.grad = torch.ones(())
    optim({p, q})
    assert p.item() != 0
    assert q.item() == 0
    p.grad, q.grad = None, torch.ones(())
    before = p.item()
    optim({p, q})
    assert p.item() == before
    assert q.item() == pytest.approx(-0.1)
    assert p.grad is None
    assert q.grad is None


def test_other_algorithms_are_refused():
    p = pyro.param("p", torch.zeros(())).unconstrained()
    p.grad = torch.ones(())
    with pytest.raises(InvalidArgument, match=r"got amsgrad, but has only lr, .*pyro\.optim\.Adam"):
        FusedAdam({"lr": 0.1, "amsgrad": True})({p})


def test_a_loaded_state_of_another_algorithm_is_refused():
    p = pyro.param("p", torch.zeros(())).unconstrained()
    other = pyro.optim.Adam({"lr": 0.1, "amsgrad": True})
    p.grad = torch.ones(())
    other({p})
    optim = FusedAdam({"lr": 0.1})
    optim.set_state(other.get_state())
    with pytest.raises(InvalidArgument, match="amsgrad"):
        optim({p})


@pytest.mark.cuda
def test_on_a_gpu():
    p = pyro.param("p", torch.zeros(3, device="cuda")).unconstrained()
    q = pyro.param("q", torch.zeros(3)).unconstrained()
    optim = FusedAdam({"lr": 0.1})
    p.grad, q.grad = torch.ones(3, device="cuda"), torch.ones(3)
    optim({p, q})
    torch.testing.assert_close(p.detach().cpu(), q.detach())

"""Baselines: what they predict, when they learn, and where their state lives.

Of each step a baseline is asked for its prediction, then for its loss, and then told the credit:
what is predicted never knows the credit it is compared with.
"""

import copy
import io
import math
import pickle
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceGraph_ELBO
from torch import Tensor

import pyro_dsvi as dsvi
from pyro_dsvi.baselines import (
    Baseline,
    LeaveOneOut,
    MovingAverage,
    Neural,
    OptimalScale,
    Visit,
)
from tests.draws import Drawn, every_draw, expected_gradient, gradient, gradient_at


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)


class Fixed(Baseline):
    """Predicts a constant."""

    def __init__(self, value: float = 2.0) -> None:
        super().__init__()
        self.value = value

    def predict(self, visit: Visit) -> Tensor:
        return torch.full_like(visit.credit, self.value)


def visit(
    credit: Any, site: str = "z", scale: float = 1.0, norm: Any = None, **options: Any
) -> Visit:
    credit = torch.as_tensor(credit)
    weights = torch.ones_like(credit) if norm is None else torch.as_tensor(norm)
    return Visit(
        site=site,
        credit=credit,
        score=torch.zeros_like(credit),
        share=1 / len(credit),
        scale=scale,
        leave_one_out=lambda: torch.full_like(credit, 3.0),
        score_norm=lambda: weights,
        **options,
    )


def after(baseline: Baseline, *credits: Any, **options: Any) -> Tensor:
    """The prediction after updates with the given credits, as a number."""
    for credit in credits:
        baseline.update(visit(credit, **options))
    return baseline.predict(visit([0.0], **options)).squeeze()


# -- the running mean ----------------------------------------------------------------------------


def test_the_first_prediction_is_made_of_nothing():
    baseline = MovingAverage()
    for credit in ([5.0], [math.inf], [math.nan]):
        assert baseline.predict(visit(credit)) == 0


def test_the_running_mean_by_its_formula():
    decay, credits = 0.8, [3.0, -1.0, 4.0, 2.0]
    m = 0.0
    baseline = MovingAverage(decay)
    for t, credit in enumerate(credits, start=1):
        m = decay * m + (1 - decay) * credit
        assert after(baseline, [credit]) == pytest.approx(m / (1 - decay**t), abs=1e-12)


def test_the_running_mean_of_a_constant_is_that_constant_from_the_first_step_on():
    baseline = MovingAverage(0.99)
    for _ in range(3):
        assert after(baseline, [[7.0, 7.0]]) == pytest.approx(7.0, abs=1e-12)


def test_without_memory_the_mean_is_the_last_credit():
    assert after(MovingAverage(0.0), [1.0], [5.0]) == pytest.approx(5.0)


def test_the_mean_runs_over_particles_and_plate_elements():
    assert after(MovingAverage(), [[1.0, 2.0, 3.0], [4.0, 5.0, 9.0]]) == pytest.approx(4.0)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_credit_that_is_not_finite_is_not_remembered(bad):
    for make in (MovingAverage, lambda: OptimalScale(MovingAverage())):
        baseline = make()
        before = after(baseline, [1.0], [2.0])
        assert after(baseline, [bad]) == before
        assert after(baseline, [[1.0, bad]]) == before
        assert after(baseline, [2.0]).isfinite()


def test_the_mean_is_kept_per_datum_whatever_the_minibatch():
    # Ten data of credit 3 each; the scale makes any minibatch speak for all of them.
    baseline = MovingAverage()
    for size in (5, 2, 1, 5):
        scale = 10 / size
        batch = visit(torch.full((2, size), 3.0 * scale), scale=scale)
        baseline.update(batch)
        torch.testing.assert_close(baseline.predict(batch), torch.tensor(3.0 * scale))


def minibatches(size: int):
    """Programs whose last minibatch is smaller."""

    def model(rows):
        with pyro.plate("data", size, subsample=rows):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(z, 1.0), obs=torch.ones(len(rows)))

    def guide(rows):
        logit = pyro.param("logit", torch.tensor(0.2))
        with pyro.plate("data", size, subsample=rows):
            infer = {"baseline": {"use_decaying_avg_baseline": True}}
            pyro.sample("z", dist.Bernoulli(logits=logit).expand([len(rows)]), infer=infer)

    return model, guide


def test_a_smaller_last_minibatch_works_where_pyros_baseline_raises():
    model, guide = minibatches(7)
    batches = [torch.arange(4), torch.arange(4, 7)]
    theirs = SVI(model, guide, pyro.optim.Adam({}), TraceGraph_ELBO())
    theirs.step(batches[0])
    with pytest.raises(RuntimeError, match="size of tensor"):
        theirs.step(batches[1])
    baseline = MovingAverage()
    ours = SVI(model, guide, pyro.optim.Adam({}), dsvi.ScoreFunctionELBO(baseline))
    for _ in range(20):
        for batch in batches:
            ours.step(batch)
    # About log p(x, z) - log q(z) of one datum, not of four or of seven.
    assert -2.5 < after(baseline) < -0.5


def test_one_instance_keeps_its_sites_apart():
    baseline = MovingAverage()
    after(baseline, [1.0], site="a")
    after(baseline, [-4.0], site="b.c")
    assert after(baseline, site="a") == pytest.approx(1.0)
    assert after(baseline, site="b.c") == pytest.approx(-4.0)
    assert after(baseline, site="never seen") == 0


# -- leave-one-out -------------------------------------------------------------------------------


def test_leave_one_out_asks_the_bound():
    torch.testing.assert_close(LeaveOneOut().predict(visit([1.0, 2.0])), torch.full((2,), 3.0))
    assert LeaveOneOut().loss(visit([1.0, 2.0])) is None
    assert not LeaveOneOut().state_dict()


# -- the optimal scale ---------------------------------------------------------------------------


def test_before_the_first_step_the_scale_is_one():
    scaled = OptimalScale(Fixed(2.0))
    assert after(scaled) == 2.0
    assert scaled.coefficient(visit([0.0])) == 1.0


def proportional_draws(p: float = 0.25) -> tuple[Tensor, Tensor, Tensor]:
    """Draws of a coin, each outcome as often as its probability says; costs; squared scores."""
    z = torch.tensor([1.0, 0.0, 0.0, 0.0])
    assert z.mean() == p
    return z, 5 * z + 1, (z - p) ** 2


def best_coefficient(cost: Tensor, weight: Tensor, prediction: float) -> Tensor:
    return (weight * cost * prediction).mean() / (weight * prediction**2).mean()


@pytest.mark.parametrize("prediction", [2.0, -0.7])
def test_the_scale_is_the_analytic_optimum(prediction):
    z, cost, weight = proportional_draws()
    scaled = OptimalScale(Fixed(prediction))
    expected = best_coefficient(cost, weight, prediction)
    for _ in range(3):
        scaled.update(visit(cost, norm=weight))
        torch.testing.assert_close(scaled.coefficient(visit(cost)), expected)
        torch.testing.assert_close(scaled.predict(visit(cost)), (expected * prediction).expand(4))
    # No other coefficient has a smaller variance.
    variances = {}
    for a in (expected - 0.1, expected, expected + 0.1):
        variances[a.item()] = ((cost - a * prediction) * (z - 0.25)).var()
    assert min(variances, key=variances.__getitem__) == expected.item()


def test_the_scale_is_learnt_in_steps():
    draws, cost, weight = proportional_draws()
    logit = torch.tensor(0.25).logit().requires_grad_()
    scaled = OptimalScale(Fixed(2.0))
    objective = dsvi.ScoreFunctionELBO(scaled, num_particles=4, vectorize_particles=True)

    def model():
        z = pyro.sample("z", dist.Bernoulli(0.25))
        pyro.factor("cost", 5 * z + 1)

    def guide():
        pyro.sample("z", dist.Bernoulli(logits=logit))

    for _ in range(2):
        with Drawn({"z": draws}):
            objective.loss_and_grads(model, guide)
    found = scaled.coefficient(visit([0.0]))
    torch.testing.assert_close(found, best_coefficient(cost, weight, 2.0))


def test_the_scale_forgets_at_its_rate():
    scaled = OptimalScale(Fixed(1.0), decay=0.5)
    scaled.update(visit([4.0]))
    scaled.update(visit([1.0]))
    cross, square = 0.25 * 4 + 0.5 * 1, 0.25 + 0.5
    assert scaled.coefficient(visit([0.0])) == pytest.approx(cross / square)


def test_the_scale_is_kept_apart_by_site_and_passes_on_what_its_baseline_learns():
    scaled = OptimalScale(MovingAverage())
    scaled.update(visit([3.0], site="a"))
    scaled.update(visit([3.0], site="a"))
    assert scaled.coefficient(visit([0.0], site="a")) == pytest.approx(1.0)
    assert scaled.baseline.predict(visit([0.0], site="a")) == pytest.approx(3.0)
    assert scaled.baseline.predict(visit([0.0], site="b")) == 0
    net = torch.nn.Linear(1, 1)
    neural = OptimalScale(Neural(net, torch.ones(1, 1)))
    assert neural.loss(visit([[3.0]])).requires_grad


# -- the neural baseline -------------------------------------------------------------------------

INPUTS = torch.tensor([[0.5], [-1.0], [2.0]], dtype=torch.float64)


def network(outputs: int = 1) -> torch.nn.Module:
    net = torch.nn.Linear(1, outputs)
    with torch.no_grad():
        net.weight.fill_(0.4)
        net.bias.fill_(-0.2)
    return net


def test_a_neural_baseline_predicts_per_datum_without_gradient():
    net = network()
    baseline = Neural(net, inputs=lambda x: x)
    seen = visit(torch.zeros(4, 3), scale=2.0, args=(INPUTS,))
    prediction = baseline.predict(seen)
    torch.testing.assert_close(prediction, 2 * (0.4 * INPUTS.squeeze() - 0.2))
    assert not prediction.requires_grad


def test_a_neural_baselines_loss_is_the_squared_error_per_datum():
    baseline = Neural(network(), INPUTS)
    credit = torch.arange(12.0).reshape(4, 3)
    loss = baseline.loss(visit(credit, scale=2.0))
    expected = (credit / 2 - (0.4 * INPUTS.squeeze() - 0.2)).square().mean()
    torch.testing.assert_close(loss.detach(), expected)
    assert loss.requires_grad


@pytest.mark.parametrize("shape", [(3,), (3, 1), (1,), ()])
def test_shapes_that_fit_three_plate_elements(shape):
    class Net(torch.nn.Module):
        def forward(self, x):
            return x.new_ones(shape)

    seen = visit(torch.zeros(4, 3))
    prediction = Neural(Net(), INPUTS).predict(seen)
    assert torch.broadcast_shapes(prediction.shape, seen.credit.shape) == seen.credit.shape
    assert (prediction == 1).all()


def neural_program():
    logits = torch.zeros(3)

    def model(x):
        rate = pyro.param("rate", torch.tensor(0.5))
        with pyro.plate("rows", 3):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(2 * z, rate.exp()), obs=x.squeeze(-1))

    def guide(x):
        eta = pyro.param("eta", logits.clone)
        with pyro.plate("rows", 3):
            pyro.sample("z", dist.Bernoulli(logits=eta + x.squeeze(-1)))

    return model, guide


def gradients(objective, seed: int = 3) -> dict[str, Tensor]:
    pyro.set_rng_seed(seed)
    loss = objective.differentiable_loss(*neural_program(), INPUTS)
    leaves = {name: p.unconstrained() for name, p in pyro.get_param_store().items()}
    extra = dict(objective.named_parameters())
    both = {**leaves, **extra}
    found = torch.autograd.grad(loss, [*both.values()])
    return dict(zip(both, found, strict=True))


def test_the_gradient_of_a_network_is_cut_from_model_and_guide():
    class Same(Baseline):
        def predict(self, visit):
            return 0.4 * INPUTS.squeeze() - 0.2

    neural = dsvi.ScoreFunctionELBO(Neural(network(), inputs=lambda x: x), num_particles=2)
    fixed = dsvi.ScoreFunctionELBO(Same(), num_particles=2)
    fixed.loss(*neural_program(), INPUTS)  # makes the parameters
    found, expected = gradients(neural), gradients(fixed)
    assert set(found) - set(expected) == {name for name, _ in neural.named_parameters()}
    for name, g in expected.items():
        torch.testing.assert_close(found[name], g, atol=1e-12, rtol=0)


def test_the_gradient_of_a_network_is_that_of_its_own_loss():
    net = network()
    objective = dsvi.ScoreFunctionELBO(Neural(net, inputs=lambda x: x), num_particles=2)
    objective.loss(*neural_program(), INPUTS)
    credits = []

    class Spy(Neural):
        def update(self, visit):
            credits.append(visit.credit)

    spied = dsvi.ScoreFunctionELBO(Spy(net, inputs=lambda x: x), num_particles=2)
    found = gradients(spied)
    (credit,) = credits
    loss = (credit - net(INPUTS).squeeze(-1)).square().mean()
    expected = torch.autograd.grad(loss, [*net.parameters()])
    for (name, _), g in zip(spied.named_parameters(), expected, strict=True):
        torch.testing.assert_close(found[name], g, atol=1e-12, rtol=0)


def test_inputs_that_depend_on_a_parameter_do_not_train_it():
    raw = torch.tensor(0.3, requires_grad=True)
    logit = torch.tensor(0.4, requires_grad=True)
    net = network()
    neural = Neural(net, inputs=lambda: (2 * raw).reshape(1, 1))

    def model():
        pyro.factor("cost", 3 * pyro.sample("z", dist.Bernoulli(0.3)))

    def guide():
        pyro.sample("z", dist.Bernoulli(logits=logit))

    dsvi.ScoreFunctionELBO(neural).loss_and_grads(model, guide)
    assert raw.grad is None
    assert logit.grad is not None
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: pyro.optim.Adam({"lr": 0.05}),
        lambda: pyro.optim.ClippedAdam({"lr": 0.05}),
    ],
    ids=["Adam", "ClippedAdam"],
)
def test_a_network_trains_in_the_step_of_svi(optimizer):
    net = network()
    objective = dsvi.ScoreFunctionELBO(Neural(net, inputs=lambda x: x))
    svi = SVI(*neural_program(), optimizer(), objective)
    before = copy.deepcopy(net.state_dict())
    losses = []
    for _ in range(60):
        svi.step(INPUTS)
        seen = visit(torch.full((1, 3), -2.5), args=(INPUTS,))
        losses.append(objective.baselines["at every site"].loss(seen).item())
    assert all(not torch.equal(p, before[name]) for name, p in net.state_dict().items())
    assert losses[-1] < losses[0]
    assert set(pyro.get_param_store()) == {"eta", "rate"}
    assert all(p.grad is None or not p.grad.any() for p in net.parameters())


def test_a_network_trains_by_a_torch_optimizer():
    net = network()
    model, guide = (wrapped(program) for program in neural_program())
    module = dsvi.ScoreFunctionELBO(Neural(net, inputs=lambda x: x))(model, guide)
    parameters = {id(p) for p in module.parameters()}
    assert {id(p) for p in net.parameters()} <= parameters
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    before = copy.deepcopy(net.state_dict())
    for _ in range(3):
        optimizer.zero_grad()
        module(INPUTS).backward()
        optimizer.step()
    assert all(not torch.equal(p, before[name]) for name, p in net.state_dict().items())


def wrapped(program) -> torch.nn.Module:
    class Module(pyro.nn.PyroModule):
        def forward(self, *args):
            return program(*args)

    return Module()


def test_the_loss_of_a_network_is_no_part_of_the_value():
    model, guide = neural_program()
    for make in (
        lambda: dsvi.ScoreFunctionELBO(Neural(network(), inputs=lambda x: x)),
        dsvi.ScoreFunctionELBO,
    ):
        values = []
        for use in ("loss", "differentiable_loss", "loss_and_grads"):
            objective = make()
            pyro.set_rng_seed(3)
            value = getattr(objective, use)(model, guide, INPUTS)
            values.append(value.item() if isinstance(value, Tensor) else value)
        assert values == pytest.approx([values[0]] * 3, abs=1e-12)
        pyro.set_rng_seed(3)
        assert values[0] == pytest.approx(Trace_ELBO().loss(model, guide, INPUTS), abs=1e-12)


# -- where the state lives -----------------------------------------------------------------------

BASELINES = {
    "MovingAverage": MovingAverage,
    "OptimalScale": lambda: OptimalScale(MovingAverage()),
    "Neural": lambda: Neural(network(), inputs=lambda: torch.zeros(1, 1)),
    "OptimalScale of Neural": lambda: OptimalScale(
        Neural(network(), inputs=lambda: torch.zeros(1, 1))
    ),
    "LeaveOneOut": LeaveOneOut,
}


def binary_program(estimator=None):
    """Two sites, whose names a module could not have; the guide may build an estimator inline."""

    def model():
        z = pyro.sample("z.1", dist.Bernoulli(0.3))
        w = pyro.sample("w 2", dist.Bernoulli(0.4))
        pyro.factor("cost", 2 * z + 7 * w)

    def guide():
        infer = {} if estimator is None else {"estimator": estimator()}
        pyro.sample("z.1", dist.Bernoulli(pyro.param("p", lambda: torch.tensor(0.5))), infer=infer)
        pyro.sample("w 2", dist.Bernoulli(pyro.param("r", lambda: torch.tensor(0.4))))

    return model, guide


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("through_a_file", [False, True])
def test_state_goes_out_and_in_again(name, through_a_file):
    programs = binary_program()
    objective = dsvi.ScoreFunctionELBO(BASELINES[name](), num_particles=2)
    for _ in range(3):
        objective.loss_and_grads(*programs)
    state = objective.state_dict()
    if through_a_file:
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        state = torch.load(file)
    fresh = dsvi.ScoreFunctionELBO(BASELINES[name](), num_particles=2)
    fresh.load_state_dict(state)
    for site in ("z.1", "w 2"):
        seen = visit([[0.0], [0.0]], site=site)
        mine, theirs = (o.baselines["at every site"].predict(seen) for o in (objective, fresh))
        torch.testing.assert_close(mine, theirs, atol=0, rtol=0)
    for key, value in objective.state_dict().items():
        torch.testing.assert_close(fresh.state_dict()[key], value, atol=0, rtol=0)


def test_a_saved_state_is_a_copy_of_the_moment():
    programs = binary_program()
    objective = dsvi.ScoreFunctionELBO(MovingAverage())
    objective.loss_and_grads(*programs)
    state = objective.state_dict()
    kept = copy.deepcopy(state)
    fresh = dsvi.ScoreFunctionELBO(MovingAverage())
    fresh.load_state_dict(state)
    for _ in range(3):
        fresh.loss_and_grads(*programs)
    for key, value in kept.items():
        torch.testing.assert_close(state[key], value, atol=0, rtol=0)


def test_the_state_of_a_baseline_that_a_site_asked_for_is_kept_too():
    programs = binary_program(lambda: dsvi.ScoreFunction(MovingAverage()))
    objective = dsvi.MixedELBO()
    for _ in range(3):
        objective.loss_and_grads(*programs)
    state = objective.state_dict()
    assert state
    fresh = dsvi.MixedELBO()
    fresh.load_state_dict(state)
    fresh.loss(*programs)
    predictions = []
    for o in (objective, fresh):
        (baseline,) = (b for b in o.baselines.values() if isinstance(b, MovingAverage))
        predictions.append(baseline.predict(visit([0.0], site="z.1")))
    assert predictions[0] == predictions[1] != 0


def test_a_baseline_built_inline_goes_on_from_step_to_step():
    built = []

    def estimator():
        built.append(MovingAverage(0.5))
        return dsvi.ScoreFunction(built[-1])

    programs = binary_program(estimator)
    objective = dsvi.MixedELBO()
    for _ in range(4):
        objective.loss_and_grads(*programs)
    assert len({id(b) for b in built}) == 4
    weight = built[-1].average.row("z.1", 2, torch.zeros(1))[1]
    assert weight == pytest.approx(1 - 0.5**4)


def test_a_scaled_baseline_built_inline_goes_on_from_step_to_step():
    programs = binary_program(lambda: dsvi.ScoreFunction(OptimalScale(MovingAverage(0.5))))
    objective = dsvi.MixedELBO()
    for _ in range(4):
        objective.loss_and_grads(*programs)
    (scaled,) = (b for b in objective.baselines.values() if isinstance(b, OptimalScale))
    assert scaled.baseline.average.row("z.1", 2, torch.zeros(1))[1] == pytest.approx(1 - 0.5**4)
    assert scaled.moments.row("z.1", 2, torch.zeros(1)).any()


def test_one_instance_at_two_sites_is_updated_at_each():
    shared = MovingAverage(0.0)
    objective = dsvi.ScoreFunctionELBO(shared)
    with Drawn({"z.1": torch.tensor(1.0), "w 2": torch.tensor(1.0)}):
        objective.loss_and_grads(*binary_program())
    z = shared.predict(visit([0.0], site="z.1"))
    w = shared.predict(visit([0.0], site="w 2"))
    assert z == pytest.approx(9 + math.log(0.3) - math.log(0.5))
    assert w == pytest.approx(9 + math.log(0.4) - math.log(0.4))


def test_two_instances_at_two_sites_do_not_mix():
    first, second = MovingAverage(), MovingAverage()
    mapping = {"z.1": dsvi.ScoreFunction(first), "w 2": dsvi.ScoreFunction(second)}
    objective = dsvi.MixedELBO(estimators=mapping)
    objective.loss_and_grads(*binary_program())
    assert first.predict(visit([0.0], site="w 2")) == 0
    assert second.predict(visit([0.0], site="z.1")) == 0
    assert first.predict(visit([0.0], site="z.1")) != 0


@pytest.mark.parametrize("name", BASELINES)
def test_state_follows_a_change_of_dtype(name):
    objective = dsvi.ScoreFunctionELBO(BASELINES[name](), num_particles=2)
    objective.loss_and_grads(*binary_program())
    objective.float()
    for value in objective.state_dict().values():
        for tensor in value.values() if isinstance(value, dict) else [value]:
            assert tensor.dtype == torch.float32


def test_state_follows_the_credit_to_another_device():
    # A device without values stands in for a GPU.
    baseline = MovingAverage()
    after(baseline, [3.0])
    there = visit(torch.empty(2, 3, device="meta"))
    assert baseline.predict(there).device.type == "meta"


@pytest.mark.cuda
@pytest.mark.parametrize("name", BASELINES)
def test_state_moves_to_a_gpu_and_back(name):
    objective = dsvi.ScoreFunctionELBO(BASELINES[name](), num_particles=2)
    objective.loss_and_grads(*binary_program())
    before = objective.state_dict()
    objective.cuda()
    for value in objective.state_dict().values():
        for tensor in value.values() if isinstance(value, dict) else [value]:
            assert tensor.device.type == "cuda"
    objective.cpu()
    for key, value in objective.state_dict().items():
        torch.testing.assert_close(value, before[key])


@pytest.mark.parametrize("name", BASELINES)
def test_an_objective_with_a_baseline_can_be_pickled_after_a_step_of_svi(name):
    def make():
        baseline = BASELINES[name]()
        for module in baseline.modules():
            if isinstance(module, Neural):
                module.inputs = torch.zeros(1, 1)  # a function of this test cannot be pickled
        return baseline

    objective = dsvi.ScoreFunctionELBO(make(), num_particles=2)
    svi = SVI(*binary_program(), pyro.optim.Adam({}), objective)
    svi.step()
    for twin in (pickle.loads(pickle.dumps(objective)), copy.deepcopy(objective)):
        for key, value in objective.state_dict().items():
            torch.testing.assert_close(twin.state_dict()[key], value, atol=0, rtol=0)


def test_what_a_step_leaves_on_parameters_can_be_saved():
    model, guide = neural_program()
    svi = SVI(model, guide, pyro.optim.Adam({}), dsvi.MixedELBO())
    svi.step(INPUTS)
    expected = {name: p.detach().clone() for name, p in pyro.get_param_store().items()}
    state = pickle.loads(pickle.dumps(pyro.get_param_store().get_state()))
    pyro.clear_param_store()
    pyro.get_param_store().set_state(state)
    for name, value in expected.items():
        torch.testing.assert_close(pyro.param(name).detach(), value)


# -- in a step -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["MovingAverage", "OptimalScale", "Neural", "Fixed"])
def test_a_baseline_leaves_the_expected_gradient_as_it_was(name):
    a, b = parameters = [torch.tensor(v, requires_grad=True) for v in (0.4, -0.3)]

    def model():
        z = pyro.sample("z", dist.Bernoulli(0.3))
        w = pyro.sample("w", dist.Bernoulli(0.2 + 0.5 * z))
        pyro.factor("cost", 3 * z * w - w)

    def guide():
        z = pyro.sample("z", dist.Bernoulli(logits=a))
        pyro.sample("w", dist.Bernoulli(logits=b + z))

    def draws():
        return every_draw(z=(), w=())

    plain = expected_gradient(dsvi.ScoreFunctionELBO(), model, guide, parameters, draws())
    make = Fixed if name == "Fixed" else BASELINES[name]
    trained = dsvi.ScoreFunctionELBO(make())
    for _ in range(5):
        trained.loss_and_grads(model, guide)
    state = copy.deepcopy(trained)
    total, moved = torch.zeros(2), False
    for draw in draws():
        with Drawn(draw), torch.no_grad():
            z, w = draw["z"], draw["w"]
            log_q = dist.Bernoulli(logits=a).log_prob(z) + dist.Bernoulli(logits=b + z).log_prob(w)
        objective = copy.deepcopy(state)  # each draw meets the same baseline
        at = gradient_at(objective, model, guide, parameters, draw)
        without = gradient_at(dsvi.ScoreFunctionELBO(), model, guide, parameters, draw)
        moved = moved or not torch.allclose(at, without)
        total = total + log_q.exp() * at
    assert moved
    torch.testing.assert_close(total, plain, atol=1e-10, rtol=0)


def test_a_prediction_is_made_before_the_update_in_every_step():
    logit = torch.tensor(0.4, requires_grad=True)
    baseline = MovingAverage(0.0)  # predicts the last credit exactly
    objective = dsvi.ScoreFunctionELBO(baseline)

    def model():
        pyro.factor("cost", 3 * pyro.sample("z", dist.Bernoulli(0.3)))

    def guide():
        pyro.sample("z", dist.Bernoulli(logits=logit))

    previous = 0.0
    for z in (1.0, 0.0, 0.0, 1.0):
        z = torch.tensor(z)
        with torch.no_grad():
            cost = 3 * z + dist.Bernoulli(0.3).log_prob(z)
            cost = cost - dist.Bernoulli(logits=logit).log_prob(z)
            expected = (cost - previous) * (z - logit.sigmoid())
        with Drawn({"z": z}):
            found = -gradient(objective.differentiable_loss(model, guide), [logit])
        torch.testing.assert_close(found.squeeze(), expected, atol=1e-12, rtol=0)
        previous = cost

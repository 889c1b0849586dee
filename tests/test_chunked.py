"""A step whose particles are held a chunk at a time has the gradient of the whole step."""

import math
import subprocess
import sys
import warnings
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_dsvi as dsvi
from pyro_dsvi.errors import IncompatibleSite, InvalidArgument
from pyro_dsvi.graph.nodes import PARTICLES
from pyro_dsvi.passes.record import running
from pyro_dsvi.passes.sample import Sample
from tests.contracts.cases import DISCRETE, MIXED_FROZEN, MIXED_LIVE, SCORED, Case, Mode
from tests.oracles import Exact, Force, assert_same, every_draw

TRIED = 3  # joint draws

# Every bound, program, baseline and estimator of the contracts with more than one particle; of the
# many on one program, every sixth.
CASES = [
    case
    for cases in (DISCRETE[::6], MIXED_LIVE, MIXED_FROZEN, SCORED)
    for case in cases
    if case.mode.num_particles > 1 and case.baseline != "neural"
]
# Chunks that divide the particles evenly, and that do not, in a loop and side by side.
CASES += [
    Case(scenario, bound, "leave-one-out", Mode(num_particles, side_by_side), frozen)
    for scenario in ("normal_first", "pair")
    for bound in ("evidence", "iwae")
    for num_particles in (3, 4)
    for side_by_side in (True, False)
    for frozen in (True, False)
]


class Slices(Force):
    """Gives each chunk of particles that stand side by side its part of the values."""

    def __init__(self, values):
        super().__init__([dict(values)])
        self.values = dict(values)

    def _pyro_sample(self, msg):
        record = running()
        if not isinstance(record, Sample):
            return  # a trial
        rows = next(f.size for f in msg["cond_indep_stack"] if f.name == PARTICLES)
        mine = slice(record.particle, record.particle + rows)
        self.particles = [{name: value[mine] for name, value in self.values.items()}]
        super()._pyro_sample(msg)


class ExactInChunks(Exact):
    def step(self, values, copies=None):
        if not self.side_by_side:
            return super().step(values)
        with Slices(values):
            return self._answer(self.scenario.model, self.scenario.guide)


def in_chunks(case, chunk, monkeypatch):
    """The case's objective, but for its chunks."""
    made = dsvi.Objective.__init__

    def chunked(self, *args, **options):
        made(self, *args, **options, chunk=chunk)

    with monkeypatch.context() as patched:
        patched.setattr(dsvi.Objective, "__init__", chunked)
        return case.objective()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_gradient_is_that_of_all_particles_at_once(case, monkeypatch):
    """For the same draws, value and gradient to 1e-10, in double precision."""
    chunk = 1 if case.mode.num_particles == 2 else 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of merged plates, which other tests are about
        program, side_by_side = case.program, case.mode.side_by_side
        whole = case.exact()
        expected_at = [whole.step(values) for values in some_draws(case)]
        chunked = ExactInChunks(
            in_chunks(case, chunk, monkeypatch), program, side_by_side=side_by_side, warm_up=0
        )
        assert chunked.objective.chunk == chunk
        chunked.objective.loss_and_grads(program.model, program.guide)  # meets the baselines
        chunked.state = whole.state
        for values, expected in zip(some_draws(case), expected_at, strict=True):
            assert_same(chunked.step(values), expected)


def some_draws(case):
    draws = every_draw(case.program, nodes=3)
    generator = torch.Generator().manual_seed(0)
    count = len(draws.log_weight)
    for _ in range(TRIED):
        index = torch.randint(count, (case.mode.num_particles,), generator=generator)
        yield {name: values[index] for name, values in draws.values.items()}


# -- other ways to ask, and other things that a step does ------------------------------------------

DATA = torch.tensor([0.3, -1.2, 2.0, 0.7, -0.4, 1.1], dtype=torch.float64)


def model():
    slope = pyro.param("slope", torch.tensor(0.7, dtype=torch.float64))
    pyro.sample("y", dist.Normal(slope, 1.0), obs=DATA[0])  # which no latent reaches
    with pyro.plate("rows", len(DATA), subsample_size=3) as rows:
        b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.4, dtype=torch.float64)))
        z = pyro.sample("z", dist.Normal(b, 1.0))
        pyro.sample("x", dist.Normal(slope * z, 0.5), obs=DATA[rows])


def guide():
    logit = pyro.param("logit", torch.tensor(0.1, dtype=torch.float64))
    loc = pyro.param("loc", torch.zeros(len(DATA), dtype=torch.float64))
    with pyro.plate("rows", len(DATA), subsample_size=3) as rows:
        b = pyro.sample("b", dist.Bernoulli(logits=logit.expand(3)))
        pyro.sample("z", dist.Normal(loc[rows] + b, (0.3 * logit).exp()))


def gradients():
    return {
        name: None if leaf.grad is None else leaf.grad.clone()
        for name, leaf in pyro.get_param_store().named_parameters()
    }


def stepped(objective, step, steps=2, seed=5):
    """Value, gradient and what was learnt, of the last of some steps, each from a seed."""
    pyro.clear_param_store()
    for turn in range(steps):
        torch.manual_seed(seed + turn)
        for _, leaf in pyro.get_param_store().named_parameters():
            leaf.grad = None
        value = step(objective)
    return value, gradients(), objective.state_dict()


def by_loss(objective):
    return objective.loss_and_grads(model, guide)


def by_differentiable_loss(objective):
    loss = objective.differentiable_loss(model, guide)
    (2 * loss).backward()
    for _, leaf in pyro.get_param_store().named_parameters():
        leaf.grad /= 2
    return loss.item()


def assert_equal_steps(found, expected):
    assert found[0] == pytest.approx(expected[0], abs=1e-10)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=0, atol=1e-10)
    torch.testing.assert_close(dict(found[2]), dict(expected[2]), rtol=0, atol=1e-10)


def pair(bound, baseline=None, chunk=3, num_particles=7, **options):
    """The same objective twice: with all particles at once, and in chunks; both in a loop."""
    for size in (None, chunk):
        estimators = {"b": dsvi.ScoreFunction(baseline() if baseline else None)}
        yield dsvi.Objective(
            bound,
            num_particles=num_particles,
            chunk=size,
            vectorize_particles=False,
            estimators=estimators,
            **options,
        )


@pytest.mark.parametrize("step", [by_loss, by_differentiable_loss])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("bound", [dsvi.bounds.Evidence(), dsvi.bounds.IWAE()], ids=repr)
def test_a_step_of_its_own_draws_is_the_same_step(bound, frozen, step):
    """In a loop the stream of random numbers is that of all at once, minibatch included."""
    whole, chunked = pair(bound, dsvi.LeaveOneOut, frozen=frozen)
    assert_equal_steps(stepped(chunked, step), stepped(whole, by_loss))


@pytest.mark.parametrize(
    ("bound", "frozen"),
    [
        (dsvi.bounds.MIWAE(2, 3), False),
        (dsvi.bounds.PIWAE(2, 3), False),
        (dsvi.bounds.PIWAE(2, 3), True),
        (dsvi.bounds.CIWAE(0.3), True),
        (dsvi.bounds.TVO(), False),
        (dsvi.bounds.RWS(), False),
        (dsvi.bounds.RWS(), True),
    ],
    ids=repr,
)
def test_a_guide_that_follows_something_else_is_the_same_step(bound, frozen):
    whole, chunked = pair(bound, num_particles=6, chunk=4, frozen=frozen)
    assert_equal_steps(stepped(chunked, by_loss), stepped(whole, by_loss))


@pytest.mark.parametrize(
    "baseline",
    [
        dsvi.MovingAverage,
        lambda: dsvi.OptimalScale(dsvi.MovingAverage()),
        lambda: dsvi.OptimalScale(dsvi.LeaveOneOut()),
    ],
)
@pytest.mark.parametrize("bound", [dsvi.bounds.Evidence(), dsvi.bounds.IWAE()], ids=repr)
def test_baselines_learn_once_a_step_from_all_particles(bound, baseline):
    whole, chunked = pair(bound, baseline)
    found, expected = stepped(chunked, by_loss), stepped(whole, by_loss)
    assert expected[2]
    assert_equal_steps(found, expected)


@pytest.mark.parametrize("bound", [dsvi.bounds.Evidence(), dsvi.bounds.IWAE()], ids=repr)
def test_the_value_alone(bound):
    whole, chunked = pair(bound)
    guide()  # so that both find the parameters
    values = []
    for objective in (whole, chunked):
        torch.manual_seed(2)
        values.append(objective.loss(model, guide))
    assert values[1] == pytest.approx(values[0], abs=1e-10)
    with torch.no_grad():
        torch.manual_seed(2)
        assert chunked.differentiable_loss(model, guide).item() == pytest.approx(values[0])


def test_what_was_computed_outside_serves_every_chunk():
    log_scale = torch.tensor(-0.3, dtype=torch.float64, requires_grad=True)

    def step(objective):
        scale = log_scale.exp().exp()  # its graph is there once

        def prior():
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), scale))
            pyro.sample("x", dist.Normal(z, scale), obs=DATA[0])

        torch.manual_seed(0)
        log_scale.grad = None
        objective.loss_and_grads(prior, lambda: pyro.sample("z", dist.Normal(DATA[1], scale)))
        return log_scale.grad

    whole, chunked = (dsvi.IWAE(6, chunk=c, vectorize_particles=False) for c in (None, 2))
    torch.testing.assert_close(step(chunked), step(whole), rtol=0, atol=1e-10)


def test_a_module_and_svi_train_by_it():
    objective = dsvi.DReG(6, chunk=4, estimators={"b": dsvi.ScoreFunction(dsvi.LeaveOneOut())})
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), objective)
    before = [svi.step() for _ in range(5)]
    assert all(map(math.isfinite, before))
    assert pyro.param("loc").abs().max() > 0


def test_the_random_stream_goes_on_where_the_first_round_ended():
    whole, chunked = pair(dsvi.bounds.IWAE(), dsvi.LeaveOneOut)
    ends = []
    for objective in (whole, chunked):
        stepped(objective, by_loss)
        ends.append(torch.get_rng_state())
    assert torch.equal(*ends)


@pytest.mark.parametrize("estimator", [dsvi.Taylor(), dsvi.Delta()], ids=repr)
@pytest.mark.parametrize("bound", [dsvi.bounds.Evidence(), dsvi.bounds.IWAE()], ids=repr)
def test_credits_at_other_values_are_those_of_the_whole_bound(bound, estimator):
    def linked():
        z = pyro.sample("z", dist.Normal(torch.tensor(0.2, dtype=torch.float64), 1.0))
        pyro.sample("x", dist.Normal(z.exp(), 0.5), obs=DATA[0])

    def law():
        loc = pyro.param("loc", torch.tensor(0.1, dtype=torch.float64))
        scale = pyro.param("log_scale", torch.tensor(-0.2, dtype=torch.float64)).exp()
        pyro.sample("z", dist.Normal(loc, scale))

    found = []
    for chunk in (None, 2):
        objective = dsvi.Objective(
            bound,
            num_particles=5,
            chunk=chunk,
            vectorize_particles=False,
            estimators={"z": estimator},
        )
        # From the second step on, an ELBO's chunks are drawn once: other draws, in another order.
        found.append(stepped(objective, lambda o: o.loss_and_grads(linked, law), steps=1))
    assert_equal_steps(found[1], found[0])


def test_noise_of_other_values_is_not_that_of_the_next_chunk():
    """What is drawn beside the particles comes from a stretch of the stream of its own."""
    from pyro_dsvi.passes.chunks import Chunks

    chunks, drawn = Chunks(4, 2), []
    for part, begin in chunks.once():
        begin()
        drawn.append(torch.rand(len(part)))
    after = torch.get_rng_state()
    beside = []
    for i, (part, go_on) in enumerate(chunks.again()):
        assert torch.equal(torch.rand(len(part)), drawn[i])
        go_on()
        beside.append(torch.rand(len(part)))
    ends = torch.rand(2)
    torch.set_rng_state(after)
    fresh = torch.rand(6)
    assert torch.equal(torch.cat([*beside, ends]), fresh)


@pytest.mark.parametrize("side_by_side", [True, False])
def test_a_guide_that_sets_itself_up_in_its_first_run(side_by_side):
    def prior():
        with pyro.plate("rows", len(DATA)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=DATA)

    guide = pyro.infer.autoguide.AutoNormal(prior)
    objective = dsvi.IWAE(5, chunk=2, vectorize_particles=side_by_side)
    objective.loss_and_grads(prior, guide)
    assert all(p.grad is not None for p in guide.parameters())


def test_particles_that_take_branches():
    """A chunk whose particles have not met a site has nothing to say of it."""

    def branching():
        b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.5, dtype=torch.float64)))
        if b.item():
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=DATA[0])

    def branched():
        b = pyro.sample("b", dist.Bernoulli(logits=pyro.param("η", DATA[1].clone())))
        if b.item():
            pyro.sample("z", dist.Normal(pyro.param("loc", DATA[2].clone()), 1.0))

    for bound in (dsvi.bounds.IWAE(), dsvi.bounds.Evidence()):
        found = []
        for chunk in (None, 1, 4):
            objective = dsvi.Objective(
                bound, num_particles=6, chunk=chunk, vectorize_particles=False
            )
            found.append(stepped(objective, lambda o: o.loss_and_grads(branching, branched)))
        assert_equal_steps(found[1], found[0])
        assert_equal_steps(found[2], found[0])


def test_describe_says_what_all_particles_get(capsys):
    objective = dsvi.VIMCO(6, chunk=2)
    choices = objective.describe(model, guide)
    assert type(choices["b"].estimator.baseline) is dsvi.LeaveOneOut
    assert "particles: 6" in capsys.readouterr().out


def test_a_chunk_of_all_is_no_chunk():
    assert dsvi.IWAE(4, chunk=4).chunk is None
    assert dsvi.IWAE(4, chunk=9, compiled=False).chunk is None


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [0, -1, 1.5, True, "all"])
def test_a_chunk_is_a_whole_number(chunk):
    with pytest.raises(InvalidArgument, match="chunk must be None or a whole number"):
        dsvi.IWAE(4, chunk=chunk)


def test_a_recorded_step_holds_all_particles():
    with pytest.raises(InvalidArgument, match=r"chunk=2 with compiled=True.*leave one"):
        dsvi.IWAE(4, chunk=2, compiled=True)
    svi = dsvi.CompiledSVI(model, guide, pyro.optim.Adam({}), dsvi.IWAE(4, chunk=2))
    with pytest.raises(InvalidArgument, match="leave chunk out"):
        svi.step()


@pytest.mark.parametrize(
    "estimator",
    [
        dsvi.ScoreFunction(dsvi.Neural(torch.nn.Linear(1, 1), torch.ones(1))),
        dsvi.ScoreFunction(dsvi.OptimalScale(dsvi.Neural(torch.nn.Linear(1, 1), torch.ones(1)))),
        dsvi.REBAR(),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_what_learns_from_a_loss_of_its_own_is_refused(estimator):
    objective = dsvi.IWAE(4, chunk=2, estimators={"b": estimator})
    with pytest.raises(IncompatibleSite, match=r"site 'b'.*learns from a loss of all particles"):
        objective.loss_and_grads(model, guide)


def test_a_program_with_a_generator_of_its_own_is_refused():
    own = torch.Generator().manual_seed(0)

    def restless():
        guide()

    def noisy():
        with pyro.plate("rows", len(DATA), subsample_size=3) as rows:
            b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.4, dtype=torch.float64)))
            z = pyro.sample("z", dist.Normal(b, 1.0))
            shift = torch.randn((), generator=own)
            pyro.sample("x", dist.Normal(z + shift, 0.5), obs=DATA[rows])

    objective = dsvi.IWAE(4, chunk=2, vectorize_particles=False)
    with pytest.raises(InvalidArgument, match=r"site 'b', 'z'.*log weights were others"):
        objective.loss_and_grads(noisy, restless)


def test_branches_that_tie_the_terms_otherwise_are_refused():
    """Where both bits are drawn their terms are two groups, and where they meet they are one."""

    def meeting():
        with pyro.plate("a", 2), pyro.plate("b", 3):
            pass
        u = pyro.sample("u", dist.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0))
        with pyro.plate("rows", 2):
            v = pyro.sample("v", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0))
            met = next(turns) % 2
            pyro.sample("x", dist.Normal(v + (u if met else 0.0), 1.0), obs=DATA[:2])

    def apart():
        pyro.sample("u", dist.Normal(pyro.param("loc", DATA[0].clone()), 1.0))
        with pyro.plate("rows", 2):
            pyro.sample("v", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0))

    import itertools

    turns = itertools.count()
    objective = dsvi.IWAE(2, chunk=1, vectorize_particles=False)
    with pytest.raises(InvalidArgument, match="hold all particles at once"):
        objective.loss_and_grads(meeting, apart)


@pytest.mark.parametrize("handler", [dsvi.handlers.antithetic, dsvi.handlers.quasi_monte_carlo])
@pytest.mark.parametrize("side_by_side", [True, False])
def test_particles_whose_noise_is_tied_are_refused(handler, side_by_side):
    def prior():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.tensor(0.3))

    def law():
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))

    objective = dsvi.PathwiseELBO(num_particles=4, chunk=2, vectorize_particles=side_by_side)
    with handler(), pytest.raises(IncompatibleSite, match=r"site 'z'.*chunk= holds some"):
        objective.loss_and_grads(prior, law)


# -- memory ----------------------------------------------------------------------------------------

STEP = """
import pathlib, re, torch, pyro, pyro.distributions as dist, pyro_dsvi as dsvi
net, x = torch.nn.Linear(8, 784), torch.rand(64, 784).round()
def model():
    with pyro.plate("rows", 64):
        z = pyro.sample("z", dist.Normal(torch.zeros(8), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=net(z)).to_event(1), obs=x)
def guide():
    with pyro.plate("rows", 64):
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(64, 8)), 1.0).to_event(1))
def peak():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", status)[1]) // 1024
dsvi.{bound}.loss_and_grads(model, guide)
before = peak()
dsvi.{bound_of_many}.loss_and_grads(model, guide)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("bound", "chunk"),
    [
        ("IWAE({}, chunk={})", 16),
        ("PathwiseELBO(num_particles={}, chunk={})", 16),
        ("IWAE({}, chunk={})", None),
    ],
)
def test_memory_is_that_of_a_chunk(bound, chunk):
    """A tensor of all 512 particles takes 98 MiB, and a step of all holds several.

    The peak is that of the process's own memory.  ``ru_maxrss`` would start at what pytest holds,
    which a child inherits.
    """
    source = STEP.format(bound=bound.format(16, 8), bound_of_many=bound.format(512, chunk))
    done = subprocess.run(
        [sys.executable, "-c", source],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    growth = int(done.stdout)
    assert growth < 98 if chunk else growth > 98

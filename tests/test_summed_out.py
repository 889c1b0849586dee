"""Sites summed out of the model: as Pyro's ``TraceEnum_ELBO`` does it, and under every bound."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import param, poutine, sample
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.ops.indexing import Vindex

import pyro_dsvi as dsvi
from pyro_dsvi.baselines import LeaveOneOut, MovingAverage
from pyro_dsvi.bounds import Evidence
from tests.contracts.cases import BOUNDS, LOOP, ONE, TWO
from tests.oracles import Answer, Exact, assert_same, truth
from tests.scenarios import (
    BIT,
    INDEX,
    ONE_HOT,
    Group,
    Latent,
    Played,
    Scenario,
    bernoulli,
    categorical,
    f64,
    flip,
    gauss,
    normal,
)

WHOLE = {"enumerate": "parallel"}
DATA = torch.linspace(-1.5, 2.0, 6, dtype=torch.float64)


def p(name, value):
    return param(name, torch.as_tensor(value, dtype=torch.float64))


def simplex(name, value):
    return p(name, value).softmax(-1)


# -- Pyro's own kind of program, and Pyro's own answer ------------------------------------------


def mixture_model(part=None):
    weights, places = simplex("weights", [0.1, -0.2, 0.3]), p("places", [-1.0, 0.2, 1.5])
    loc = gauss("loc", 0.0, 0.0)
    with pyro.plate("data", 6, subsample=part) as i:
        z = sample("z", dist.Categorical(weights), infer=WHOLE)
        gauss("x", Vindex(places)[z] + loc, p("log_scale", -0.3), obs=DATA[i])


def mixture_guide():
    gauss("loc", p("m", 0.3), p("s", -0.7))


def minibatch_model():
    mixture_model(torch.tensor([4, 0, 3]))


def chain_model():
    stay, places = p("stay", [0.7, -0.4]), p("places", [-0.5, 1.2])
    scale = sample("scale", dist.LogNormal(f64(0.0), f64(0.3)))
    z = 0
    for t in pyro.markov(range(6)):
        z = sample(f"z{t}", dist.Bernoulli(logits=Vindex(stay)[z]), infer=WHOLE).long()
        sample(f"x{t}", dist.Normal(Vindex(places)[z], scale), obs=DATA[t])


def chain_guide():
    sample("scale", dist.LogNormal(p("m", 0.1), p("s", -0.5).exp()))


def many_chains_model():
    """Several chains in a plate, with a plate of readings within, and a memory of two steps."""
    stay, places = p("stay", [[0.7, -0.4], [0.2, 0.5]]), p("places", [-0.5, 1.2])
    with pyro.plate("chains", 2, dim=-2):
        offset = gauss("offset", 0.0, 0.0)
        last, z = 0, 0
        for t in pyro.markov(range(4), history=2):
            before, last = last, z
            logits = Vindex(stay)[before, last]
            z = sample(f"z{t}", dist.Bernoulli(logits=logits), infer=WHOLE).long()
            with pyro.plate(f"readings{t}", 3, dim=-1):
                gauss(f"x{t}", Vindex(places)[z] + offset, -0.2, obs=DATA.reshape(2, 3))


def many_chains_guide():
    with pyro.plate("chains", 2, dim=-2):
        gauss("offset", p("m", [[0.1], [-0.3]]), p("s", -0.5))


def nested_model():
    """A kind for each row, a colour for each cell, and one switch for all."""
    switch = flip("switch", p("on", 0.3), infer=WHOLE)
    with pyro.plate("rows", 2, dim=-2):
        kind = flip("kind", p("sort", 0.4) * switch, infer=WHOLE)
        with pyro.plate("cells", 3, dim=-1):
            colour = flip("colour", p("link", 0.9) * kind + switch, infer=WHOLE)
            gauss("x", p("slope", 1.1) * colour, -0.1, obs=DATA.reshape(2, 3))


def no_guide():
    pass


def both_model():
    """The guide sums over one site of each element, the model over another."""
    with pyro.plate("data", 6):
        kind = flip("kind", p("on", 0.3))
        mix = simplex("mix", [[0.1, -0.2, 0.3], [0.4, 0.0, 0.1]])
        colour = sample("colour", dist.Categorical(mix[kind.long()]), infer=WHOLE)
        gauss("x", Vindex(p("places", [-1.0, 0.2, 1.5]))[colour] + 0.3 * kind, -0.2, obs=DATA)


def both_guide():
    with pyro.plate("data", 6):
        flip("kind", p("eta", 0.1 * DATA), infer=WHOLE)


def global_model():
    """The guide's site is drawn for all, and ties the elements whose sites the model sums out."""
    kind = sample("kind", dist.Categorical(simplex("on", [0.2, 0.0, -0.4])))
    z = gauss("z", 0.3 * kind, 0.0)
    with pyro.plate("data", 6):
        colour = flip("colour", Vindex(p("mix", [0.3, -0.2, 0.5]))[kind], infer=WHOLE)
        gauss("x", p("slope", 1.1) * colour + z, -0.2, obs=DATA)


def global_guide():
    kind = sample("kind", dist.Categorical(simplex("eta", [0.1, 0.5, -0.2])), infer=WHOLE)
    gauss("z", Vindex(p("m", [0.1, -0.3, 0.6]))[kind], p("s", -0.5))


def masked_model():
    with poutine.scale(scale=0.4), pyro.plate("data", 6):
        z = flip("z", p("on", 0.3), infer=WHOLE)
        with poutine.mask(mask=DATA > 0):
            gauss("x", p("slope", 1.1) * z, -0.2, obs=DATA)


def independent_model():
    """Two sums that have nothing to do with each other, and a term of neither."""
    a = flip("a", p("pa", 0.3), infer=WHOLE)
    gauss("x", p("slope", 1.1) * a, 0.0, obs=f64(0.4))
    with pyro.plate("data", 6):
        b = flip("b", p("pb", -0.2), infer=WHOLE)
        gauss("y", p("lift", 0.8) * b, 0.0, obs=DATA)
    gauss("w", p("slope", 1.1), 0.0, obs=f64(0.1))


def looser_model():
    """The model's sites depend on each other and on one summed out, the guide's on nothing."""
    with pyro.plate("data", 6):
        kind = flip("kind", p("on", 0.3))
        colour = flip("colour", p("mix", 0.8) * kind, infer=WHOLE)
        z = gauss("z", colour + 0.5 * kind, 0.0)
        gauss("x", p("slope", 1.1) * z, -0.2, obs=DATA)


def looser_guide():
    with pyro.plate("data", 6):
        flip("kind", p("eta", 0.1 * DATA), infer=WHOLE)
        gauss("z", p("m", 0.4 * DATA), p("s", -0.6))


PROGRAMS = {
    "mixture": (mixture_model, mixture_guide),
    "minibatch": (minibatch_model, mixture_guide),
    "chain": (chain_model, chain_guide),
    "many chains": (many_chains_model, many_chains_guide),
    "nested": (nested_model, no_guide),
    "both": (both_model, both_guide),
    "global": (global_model, global_guide),
    "masked": (masked_model, no_guide),
    "independent": (independent_model, no_guide),
    "looser": (looser_model, looser_guide),
}


def answer(elbo, model, guide) -> Answer:
    pyro.clear_param_store()
    elbo.loss(model, guide)  # in which the plates are counted
    pyro.set_rng_seed(5)
    loss = elbo.loss_and_grads(model, guide)
    store = pyro.get_param_store()
    gradient = {n: store._params[n].grad for n in sorted(store._params)}
    return Answer(f64(-loss), {n: -g for n, g in gradient.items() if g is not None})


@pytest.mark.parametrize("mode", [ONE, TWO, LOOP], ids=str)
@pytest.mark.parametrize("name", PROGRAMS)
def test_as_pyro(name, mode):
    """Value and every gradient, at the same noise."""
    model, guide = PROGRAMS[name]
    options = {
        "num_particles": mode.num_particles,
        "vectorize_particles": mode.num_particles > 1 and mode.side_by_side,
    }
    expected = answer(TraceEnum_ELBO(max_plate_nesting=2, **options), model, guide)
    assert_same(answer(dsvi.Objective(Evidence(), **options), model, guide), expected)


def test_configured_as_a_whole():
    """``config_enumerate`` on programs that do not mark their sites."""

    def model():
        g = sample("g", dist.Categorical(simplex("p", [0.1, 0.4, -0.3])))
        with pyro.plate("data", 6):
            b = flip("b", p("link", 0.4) * g)
            gauss("x", b * p("slope", 0.8), 0.0, obs=DATA)

    def guide():
        sample("g", dist.Categorical(simplex("eta", [0.1, 0.5, -0.2])))

    programs = config_enumerate(model), config_enumerate(guide)
    expected = answer(TraceEnum_ELBO(max_plate_nesting=1), *programs)
    assert_same(answer(dsvi.Objective(Evidence()), *programs), expected)


def test_a_mask_on_the_distribution_is_a_mask_on_the_site():
    """A summed site that is masked out weighs its values as before: they sum to one."""

    def model(masked):
        with pyro.plate("data", 6):
            law = dist.Bernoulli(logits=p("on", 0.3))
            z = sample("z", masked(law), infer=WHOLE)
            with poutine.mask(mask=DATA > 0):
                gauss("x", p("slope", 1.1) * z, -0.2, obs=DATA)

    expected, actual = (
        answer(dsvi.Objective(Evidence()), lambda f=f: model(f), no_guide)
        for f in (lambda law: law, lambda law: law.mask(DATA > 0))
    )
    assert_same(actual, expected)


@pytest.mark.parametrize("name", PROGRAMS)
def test_particles_are_seen_to_go_side_by_side(name):
    """The look whether a program broadcasts draws the summed sites, once for all its runs."""
    model, guide = PROGRAMS[name]
    objective = dsvi.Objective(Evidence(), num_particles=2)
    objective.loss(model, guide)
    assert objective._pair.nesting is not None


# -- under every bound, beside sites that are scored -------------------------------------------


def _tied(whole: bool) -> Scenario:
    """A bit for all is scored; each element's own is summed out, with a third at the top."""
    mark = WHOLE if whole else {}

    def model():
        top = sample("top", dist.OneHotCategorical(logits=param("high")), infer=mark)
        g = flip("g", param("prior"))
        gauss("y", top @ param("lift"), 0.0, obs=f64(0.4))
        with pyro.plate("data", 2):
            b = flip("b", param("link") * g, infer=mark)
            gauss("x", param("slope") * b, 0.1, obs=f64([0.9, -0.5]))

    def guide():
        g = flip("g", param("eta"))
        if whole:
            return
        sample("top", dist.OneHotCategorical(logits=f64([0.3, 0.1, 0.9])))
        with pyro.plate("data", 2):
            flip("b", f64([0.6, -0.5]) + g)

    def play(θ, z):
        g = z["g"]
        top = categorical(θ["high"], ONE_HOT) + normal(0.4, ONE_HOT @ θ["lift"], 0.0)
        b, link = BIT.reshape(2, 1, 1), θ["link"] * g.unsqueeze(-1)
        local = bernoulli(link, b) + normal(f64([0.9, -0.5]), θ["slope"] * b, 0.1)
        log_q = bernoulli(θ["eta"], g)
        log_w = bernoulli(θ["prior"], g) + local.logsumexp(0).sum(-1) - log_q
        return Played(log_q, [Group(log_w), Group(top.logsumexp(0).expand(g.shape))])

    start = {"high": [0.2, 0.0, -0.4], "lift": [0.3, 1.1, -0.6], "prior": 0.4, "link": -0.7}
    start |= {"slope": 1.2, "eta": 0.2}
    return Scenario(model, guide, start, {"g": Latent((), BIT)}, play, merges=True)


def _locally(whole: bool) -> Scenario:
    """Within each element a colour is summed out and a bit scored; nothing ties elements."""
    mark = WHOLE if whole else {}

    def model():
        with pyro.plate("data", 5, subsample=torch.tensor([3, 1])):
            b = flip("b", param("prior"))
            mix = b.unsqueeze(-1) * param("mix")
            colour = sample("colour", dist.Categorical(logits=mix), infer=mark)
            gauss("x", Vindex(param("places"))[colour] + 0.3 * b, 0.1, obs=f64([0.9, -0.5]))

    def guide():
        with pyro.plate("data", 5, subsample=torch.tensor([3, 1])):
            flip("b", param("eta"))
            if not whole:
                sample("colour", dist.Categorical(logits=f64([0.2, 0.1, -0.4])))

    def play(θ, z):
        b, one_hot = z["b"], ONE_HOT.reshape(3, 1, 1, 3)
        log_q = bernoulli(θ["eta"], b)
        local = categorical(b.unsqueeze(-1) * θ["mix"], one_hot)
        places = θ["places"][INDEX].reshape(3, 1, 1)
        local = local + normal(f64([0.9, -0.5]), places + 0.3 * b, 0.1)
        log_w = bernoulli(θ["prior"], b) + local.logsumexp(0) - log_q
        return Played(log_q.sum(-1), [Group(log_w, 5 / 2)])

    start = {"prior": 0.3, "mix": [0.2, -0.6, 0.4], "places": [0.5, -0.4, 1.5], "eta": [0.6, -0.5]}
    return Scenario(model, guide, start, {"b": Latent((2,), BIT)}, play)


def _apart(whole: bool) -> Scenario:
    """A bit for all has no part in the elements' log weights; the guide looks at it there."""
    local = _locally(whole)

    def model():
        gauss("y", param("lift") * flip("g", param("own")), 0.0, obs=f64(0.4))
        local.model()

    def guide():
        g = flip("g", param("mine"))
        with pyro.plate("data", 5, subsample=torch.tensor([3, 1])):
            flip("b", param("eta"))
            if not whole:
                mix = g.unsqueeze(-1) * f64([0.2, 0.1, -0.4])
                sample("colour", dist.Categorical(logits=mix))

    def play(θ, z):
        g, played = z["g"], local.play(θ, z)
        log_q = bernoulli(θ["mine"], g)
        log_w = bernoulli(θ["own"], g) + normal(0.4, θ["lift"] * g, 0.0) - log_q
        return Played(log_q + played.log_q, [Group(log_w), *played.groups])

    start = {**local.start, "own": 0.2, "lift": 0.9, "mine": -0.5}
    return Scenario(model, guide, start, {"g": Latent((), BIT), **local.latents}, play)


BASELINES = {"none": lambda: None, "average": MovingAverage, "leave-one-out": LeaveOneOut}
TURNS = {"1": "average", "2": "leave-one-out", "2 in a loop": "none"}


@pytest.mark.filterwarnings("ignore:.*is merged")
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("mode", [ONE, TWO, LOOP], ids=str)
@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("whole", [True, False], ids=["of the model", "marginalized"])
@pytest.mark.parametrize("program", [_tied, _locally])
def test_beside_a_score_function(program, whole, bound, mode, frozen):
    """Whoever sums them out: credit and bound are those of a model that has no such sites."""
    scenario = program(whole)
    estimators = {
        name: dsvi.ScoreFunction(BASELINES[TURNS[str(mode)]]()) for name in scenario.latents
    }
    if not whole:
        names = ("top", "b") if program is _tied else ("colour",)
        estimators |= dict.fromkeys(names, dsvi.Marginalize())
    objective = dsvi.Objective(
        BOUNDS[bound][0],
        num_particles=mode.num_particles,
        vectorize_particles=mode.side_by_side,
        estimators=estimators,
        frozen=frozen,
    )
    exact = Exact(objective, scenario, side_by_side=mode.side_by_side)
    expected = truth(scenario, BOUNDS[bound][1], mode.num_particles)
    assert_same(exact.explored_expectation(), expected)


@pytest.mark.parametrize("mode", [ONE, TWO], ids=str)
@pytest.mark.parametrize("bound", ["evidence", "iwae"])
@pytest.mark.parametrize("whole", [True, False], ids=["of the model", "marginalized"])
def test_what_the_guide_thinks_of_a_summed_site_ties_nothing(whole, bound, mode):
    """The bound stays one for each element, and no warning says that it does not."""
    test_beside_a_score_function(_apart, whole, bound, mode, frozen=False)

"""What cannot be right is refused by name, with a remedy, before anything is drawn.

Each case names the class of the error, the site (or plate, or argument) and words of the remedy.
What is doubtful rather than wrong is warned of, once.
"""

import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import SVI, autoguide
from torch import Tensor

import pyro_dsvi as dsvi
from pyro_dsvi import errors

LeaveOneOut, MovingAverage = dsvi.baselines.LeaveOneOut, dsvi.baselines.MovingAverage
X = torch.tensor(0.7)


def says(error: pytest.ExceptionInfo, *words: str) -> None:
    """The message holds each of the words."""
    message = str(error.value)
    for word in words:
        assert word in message, f"{word!r} is not in {message!r}"


# -- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, -1, 1.5, True, None, "3", math.inf, torch.tensor(3)])
@pytest.mark.parametrize(
    "make",
    [
        lambda n: dsvi.Objective(dsvi.bounds.Evidence(), num_particles=n),
        lambda n: dsvi.MixedELBO(num_particles=n),
        lambda n: dsvi.IWAE(n),
        lambda n: dsvi.VIMCO(n),
        lambda n: dsvi.DReG(n),
        lambda n: dsvi.Renyi(0.5, n),
    ],
    ids=["Objective", "MixedELBO", "IWAE", "VIMCO", "DReG", "Renyi"],
)
def test_particles_that_cannot_be_counted(make, number):
    with pytest.raises(errors.InvalidArgument) as error:
        make(number)
    says(error, "num_particles", "at least", repr(number))


def test_vimco_with_one_particle():
    with pytest.raises(errors.InvalidArgument) as error:
        dsvi.VIMCO(1)
    says(error, "VIMCO", "num_particles", "at least 2", "1")


def test_renyi_of_order_one():
    for make in (dsvi.bounds.Renyi, lambda alpha: dsvi.Renyi(alpha, 4)):
        with pytest.raises(errors.InvalidArgument) as error:
            make(1)
        says(error, "alpha", "dsvi.bounds.Evidence()")


@pytest.mark.parametrize("alpha", [math.inf, math.nan, -math.inf])
def test_renyi_of_no_finite_order(alpha):
    with pytest.raises(errors.InvalidArgument) as error:
        dsvi.bounds.Renyi(alpha)
    says(error, "alpha", "finite")


@pytest.mark.parametrize("bound", [None, "ELBO", dsvi.bounds.Evidence, 1.0])
def test_something_that_is_no_bound(bound):
    with pytest.raises(errors.InvalidArgument) as error:
        dsvi.Objective(bound)
    says(error, "bound", "dsvi.bounds.Evidence()")


def test_leave_one_out_with_one_particle_in_a_preset():
    with pytest.raises(errors.InvalidArgument) as error:
        dsvi.ScoreFunctionELBO(LeaveOneOut())
    says(error, "LeaveOneOut", "at least 2", "num_particles", "MovingAverage")


def test_leave_one_out_with_one_particle_inside_another_baseline():
    with pytest.raises(errors.InvalidArgument) as error:
        dsvi.ScoreFunctionELBO(dsvi.baselines.OptimalScale(LeaveOneOut()))
    says(error, "OptimalScale", "at least 2", "num_particles")


def test_leave_one_out_with_one_particle_in_the_mapping():
    with pytest.raises(errors.InvalidArgument) as error:
        dsvi.MixedELBO(estimators={"z": dsvi.ScoreFunction(LeaveOneOut())})
    says(error, "'z'", "LeaveOneOut", "num_particles")


@pytest.mark.parametrize("thing", [None, "pathwise", dsvi.Pathwise, LeaveOneOut()])
def test_something_that_is_no_estimator_in_the_mapping(thing):
    with pytest.raises(errors.InvalidArgument) as error:
        dsvi.MixedELBO(estimators={"z": thing})
    says(error, "'z'", "expected an estimator", "dsvi.estimators.Pathwise()")


@pytest.mark.parametrize("thing", ["mean", MovingAverage, 0.0])
def test_something_that_is_no_baseline(thing):
    for make in (dsvi.ScoreFunction, dsvi.ScoreFunctionELBO, dsvi.baselines.OptimalScale):
        with pytest.raises(errors.InvalidArgument) as error:
            make(thing)
        says(error, "baseline", "MovingAverage()")


@pytest.mark.parametrize("decay", [-0.1, 1.0, math.nan])
def test_a_decay_outside_its_range(decay):
    for make in (
        lambda d: MovingAverage(decay=d),
        lambda d: dsvi.baselines.OptimalScale(MovingAverage(), decay=d),
    ):
        with pytest.raises(errors.InvalidArgument) as error:
            make(decay)
        says(error, "decay", "[0, 1)")


@pytest.mark.parametrize(
    "make",
    [
        lambda **o: dsvi.IWAE(3, **o),
        lambda **o: dsvi.VIMCO(3, **o),
        lambda **o: dsvi.DReG(3, **o),
        lambda **o: dsvi.Renyi(0.5, 3, **o),
    ],
)
def test_closed_forms_under_a_bound_that_is_not_additive(make):
    with pytest.raises(errors.InvalidArgument) as error:
        make(analytic_kl=True)
    says(error, "analytic_kl", "additive", "dsvi.bounds.Evidence()")


def test_compiled_must_be_a_bool_or_settings():
    with pytest.raises(errors.InvalidArgument) as error:
        dsvi.MixedELBO(compiled="yes")
    says(error, "compiled", "'yes'", "dsvi.Compilation")


@pytest.mark.parametrize("frozen", ["some", {"z": True}, None])
def test_freezing_a_part_of_the_sites_by_argument(frozen):
    with pytest.raises(errors.InvalidArgument) as error:
        dsvi.MixedELBO(frozen=frozen)
    says(error, "frozen", "True or False", "mix")


def test_every_error_is_a_value_error_of_our_own_kind():
    kinds = [errors.InvalidArgument, errors.IncompatibleSite, errors.SiteMismatch]
    for kind in [*kinds, errors.EmptyPlate]:
        assert issubclass(kind, dsvi.DSVIError)
        assert issubclass(kind, ValueError)
        assert str(pickle.loads(pickle.dumps(kind("a site")))) == "a site"


# -- programs ------------------------------------------------------------------------------------


class Counter:
    """Distributions that count how often they were drawn from."""

    def __init__(self) -> None:
        self.draws = 0

    def of(self, law: Any) -> Any:
        counter = self

        class Counted(type(law)):
            def rsample(self, *args, **kwargs):
                counter.draws += 1
                return super().rsample(*args, **kwargs)

            def sample(self, *args, **kwargs):
                counter.draws += 1
                return super().sample(*args, **kwargs)

        law.__class__ = Counted
        return law


def observe(z: Tensor) -> None:
    pyro.sample("x", dist.Normal(z, 1.0), obs=X)


def normal_model():
    observe(pyro.sample("z", dist.Normal(0.0, 1.0)))


def binary_model():
    observe(pyro.sample("z", dist.Bernoulli(0.3)))


def normal_guide():
    pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.1)), 1.0))


def binary_guide():
    pyro.sample("z", dist.Bernoulli(logits=pyro.param("logit", torch.tensor(0.1))))


def annotated(law: Callable[[], Any], **infer: Any) -> Callable[[], None]:
    def guide():
        pyro.sample("z", law(), infer=infer)

    return guide


def bernoulli():
    return dist.Bernoulli(logits=pyro.param("logit", torch.tensor(0.1)))


def normal():
    return dist.Normal(pyro.param("loc", torch.tensor(0.1)), 1.0)


def learnt_uniform():
    high = pyro.param("high", torch.tensor(2.0), constraint=constraints.positive)
    return dist.Uniform(0.0, high)


def wide_uniform_model():
    observe(pyro.sample("z", dist.Uniform(0.0, 9.0)))


def delta():
    return dist.Delta(pyro.param("at", torch.tensor(0.1)))


SITES: dict[str, tuple[Any, Any, Any, tuple[str, ...]]] = {
    # objective, model, guide, words of the message
    "Pathwise at a Bernoulli": (
        dsvi.PathwiseELBO(),
        binary_model,
        binary_guide,
        ("Pathwise", "Bernoulli", "no rsample", "ScoreFunction()"),
    ),
    "Pathwise at a Bernoulli, by name": (
        dsvi.MixedELBO(estimators={"z": dsvi.Pathwise()}),
        binary_model,
        binary_guide,
        ("Pathwise", "Bernoulli", "no rsample", "ScoreFunction()"),
    ),
    "Pathwise at a Bernoulli, by the site": (
        dsvi.MixedELBO(),
        binary_model,
        annotated(bernoulli, estimator=dsvi.Pathwise()),
        ("Pathwise", "Bernoulli", "no rsample", "ScoreFunction()"),
    ),
    "Pathwise at a Bernoulli in wrappers": (
        dsvi.PathwiseELBO(),
        lambda: pyro.sample("z", dist.Bernoulli(0.3).expand([2]).to_event(1)),
        lambda: pyro.sample("z", dist.Bernoulli(0.3).expand([2]).to_event(1).mask(True)),
        ("Pathwise", "no rsample", "ScoreFunction()"),
    ),
    "ScoreFunction at a Delta, by name": (
        dsvi.MixedELBO(estimators={"z": dsvi.ScoreFunction()}),
        normal_model,
        annotated(delta),
        ("ScoreFunction", "point mass", "Pathwise()"),
    ),
    "ScoreFunction at a Delta, by the site": (
        dsvi.MixedELBO(),
        normal_model,
        annotated(delta, estimator=dsvi.ScoreFunction()),
        ("ScoreFunction", "point mass", "Pathwise()"),
    ),
    "ScoreFunction at a support that is learnt": (
        dsvi.ScoreFunctionELBO(),
        wide_uniform_model,
        annotated(learnt_uniform),
        ("ScoreFunction", "support", "Uniform", "Pathwise()"),
    ),
    "ScoreFunction at a support that is learnt, by the site": (
        dsvi.MixedELBO(),
        wide_uniform_model,
        annotated(lambda: learnt_uniform().mask(True), estimator=dsvi.ScoreFunction()),
        ("ScoreFunction", "support", "Pathwise()"),
    ),
    "no estimator, by the site": (
        dsvi.MixedELBO(),
        normal_model,
        annotated(normal, estimator="pathwise"),
        ("expected an estimator", "'pathwise'", "dsvi.estimators.Pathwise()"),
    ),
    "LeaveOneOut with one particle, by the site": (
        dsvi.MixedELBO(),
        binary_model,
        annotated(bernoulli, estimator=dsvi.ScoreFunction(LeaveOneOut())),
        ("LeaveOneOut", "at least 2", "num_particles", "MovingAverage()"),
    ),
    "one site frozen among live ones": (
        dsvi.MixedELBO(),
        normal_model,
        annotated(normal, frozen=True),
        ("frozen", "mix", "all sites"),
    ),
    "one site live among frozen ones": (
        dsvi.STL(),
        normal_model,
        annotated(normal, frozen=False),
        ("frozen", "mix", "all sites"),
    ),
}


def assert_refused(kind, objective, model, guide, *words: str, value: bool = True) -> None:
    """Every way of using the objective raises the same, be it for the value alone."""
    uses = [
        lambda: objective.loss_and_grads(model, guide),
        lambda: objective.differentiable_loss(model, guide),
        lambda: SVI(model, guide, pyro.optim.Adam({}), objective).step(),
        lambda: objective.loss(model, guide),
    ]
    for use in uses if value else uses[:-1]:
        with pytest.raises(kind) as error:
            use()
        assert type(error.value) is kind
        says(error, *words)


@pytest.mark.parametrize("case", SITES)
def test_an_estimator_that_cannot_serve_a_site(case):
    objective, model, guide, words = SITES[case]
    # Without gradients nothing is learnt, the support neither.
    value = "support" not in case
    assert_refused(errors.IncompatibleSite, objective, model, guide, "'z'", *words, value=value)


@pytest.mark.parametrize("look", ["loss", "describe"])
def test_a_first_look_without_gradients_does_not_hide_a_support_that_is_learnt(look):
    objective = dsvi.ScoreFunctionELBO()
    guide = annotated(learnt_uniform)
    try:
        getattr(objective, look)(wide_uniform_model, guide)
    except errors.IncompatibleSite:
        return
    with pytest.raises(errors.IncompatibleSite, match="support"):
        objective.loss_and_grads(wide_uniform_model, guide)


@pytest.mark.parametrize("case", SITES)
def test_a_refused_site_is_not_drawn(case):
    objective, model, guide, _ = SITES[case]
    state = torch.get_rng_state()
    with pytest.raises(errors.IncompatibleSite):
        objective.loss_and_grads(model, guide)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("num_particles", [1, 3])
def test_a_latent_that_the_guide_lacks(num_particles):
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        observe(z + pyro.sample("forgotten", dist.Normal(0.0, 1.0)))

    objective = dsvi.MixedELBO(num_particles=num_particles)
    words = ("'forgotten'", "the model samples it", "in the guide", "observe it")
    assert_refused(errors.SiteMismatch, objective, model, normal_guide, *words)


@pytest.mark.parametrize("num_particles", [1, 3])
def test_a_latent_that_the_model_lacks(num_particles):
    def guide():
        normal_guide()
        pyro.sample("invented", dist.Normal(0.0, 1.0))

    objective = dsvi.MixedELBO(num_particles=num_particles)
    words = ("'invented'", "the model does not", "is_auxiliary")
    assert_refused(errors.SiteMismatch, objective, normal_model, guide, *words)


def test_an_auxiliary_latent_that_the_model_lacks_is_welcome():
    def guide():
        normal_guide()
        pyro.sample("extra", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})

    assert math.isfinite(dsvi.MixedELBO(num_particles=3).loss(normal_model, guide))


def test_a_latent_that_the_model_observes():
    observed = poutine.condition(normal_model, data={"z": torch.tensor(0.3)})
    words = ("'z'", "the model observes it", "remove it from the guide")
    assert_refused(errors.SiteMismatch, dsvi.MixedELBO(), observed, normal_guide, *words)


@pytest.mark.parametrize("make", [autoguide.AutoNormal, autoguide.AutoNormalMessenger])
def test_a_model_conditioned_on_a_latent_of_its_automatic_guide(make):
    guide = make(normal_model)
    guide()
    observed = poutine.condition(normal_model, data={"z": torch.tensor(0.3)})
    words = ("'z'", "the model observes it", "remove it from the guide")
    assert_refused(errors.SiteMismatch, dsvi.MixedELBO(), observed, guide, *words)


def test_a_latent_that_the_guide_observes():
    def guide():
        pyro.sample("z", dist.Normal(0.0, 1.0), obs=torch.tensor(0.3))

    words = ("'z'", "the guide observes it", "sample it in the guide")
    assert_refused(errors.SiteMismatch, dsvi.MixedELBO(), normal_model, guide, *words)


def test_a_factor_of_the_guide_that_does_not_say_where_it_comes_from():
    def guide():
        normal_guide()
        pyro.factor("jacobian", torch.tensor(0.3))

    words = ("'jacobian'", "has_rsample=True", "has_rsample=False")
    assert_refused(errors.SiteMismatch, dsvi.MixedELBO(), normal_model, guide, *words)


@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize("where", ["model", "guide"])
def test_a_plate_without_elements(where, num_particles):
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 0 if where == "model" else 1):
            pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(0 if where == "model" else 1))

    def guide():
        normal_guide()
        if where == "guide":
            with pyro.plate("rows", 0):
                pyro.sample("w", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})

    objective = dsvi.MixedELBO(num_particles=num_particles)
    words = ("'rows'", "size 0", "skip")
    assert_refused(errors.EmptyPlate, objective, model, guide, *words)


@pytest.mark.parametrize("sequential", [False, True])
def test_a_minibatch_without_elements(sequential):
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        plate = pyro.plate("rows", 5, subsample_size=0)
        if sequential:
            for i in plate:
                pyro.sample(f"x {i}", dist.Normal(z, 1.0), obs=X)
        else:
            with plate:
                pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(0))

    words = ("'rows'", "subsample_size 0", "skip")
    assert_refused(errors.EmptyPlate, dsvi.MixedELBO(), model, normal_guide, *words)


def test_a_minibatch_given_without_elements():
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 5, subsample=torch.zeros(0, dtype=torch.long)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(0))

    words = ("'rows'", "subsample_size 0", "skip")
    assert_refused(errors.EmptyPlate, dsvi.MixedELBO(), model, normal_guide, *words)


def test_a_name_in_the_mapping_that_no_latent_has():
    objective = dsvi.MixedELBO(estimators={"zz": dsvi.Pathwise()})
    words = ("'zz'", "no latent site", "'z'")
    with pytest.raises(errors.SiteMismatch) as error:
        objective.loss_and_grads(normal_model, normal_guide)
    says(error, *words)


def test_a_name_in_the_mapping_is_looked_for_in_every_pair_of_programs():
    objective = dsvi.MixedELBO(estimators={"z": dsvi.Pathwise()})
    objective.loss(normal_model, normal_guide)

    def other_model():
        observe(pyro.sample("w", dist.Normal(0.0, 1.0)))

    def other_guide():
        pyro.sample("w", dist.Normal(pyro.param("w loc", torch.tensor(0.1)), 1.0))

    with pytest.raises(errors.SiteMismatch) as error:
        objective.loss(other_model, other_guide)
    says(error, "'z'", "'w'")


@pytest.mark.parametrize("where", ["model", "guide", "observation"])
@pytest.mark.parametrize("num_particles", [1, 3])
def test_a_batch_that_no_plate_declares(where, num_particles):
    shape = {"model": (), "guide": (), "observation": ()} | {where: (3,)}

    def model():
        z = pyro.sample("z", dist.Normal(torch.zeros(shape["model"]), 1.0))
        obs = torch.zeros(shape["observation"])
        pyro.sample("x", dist.Normal(z.sum() if z.dim() else z, 1.0).expand(obs.shape), obs=obs)

    def guide():
        loc = pyro.param("loc", lambda: torch.zeros(shape["guide"]))
        pyro.sample("z", dist.Normal(loc, 1.0))

    objective = dsvi.MixedELBO(num_particles=num_particles, vectorize_particles=False)
    site = "'x'" if where == "observation" else "'z'"
    words = (site, "shape", "plate", ".to_event(")
    assert_refused(errors.SiteMismatch, objective, model, guide, *words)


def test_a_latent_whose_shapes_disagree():
    def model():
        with pyro.plate("rows", 3):
            pyro.sample("z", dist.Normal(torch.zeros(3, 2), 1.0).to_event(1))

    def guide():
        with pyro.plate("rows", 3):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(3)), 1.0))

    words = ("'z'", "shapes disagree", "model (3,) | (2,)", "guide (3,) | ()", ".to_event(")
    assert_refused(errors.SiteMismatch, dsvi.MixedELBO(), model, guide, *words)


def test_a_density_computed_outside_the_guide_cannot_be_frozen():
    raw = torch.tensor(0.3, requires_grad=True)
    outside = raw.exp()

    def guide():
        pyro.sample("z", dist.Normal(outside, 1.0))

    words = ("'z'", "outside the guide", "frozen=False")
    with pytest.raises(errors.IncompatibleSite) as error:
        dsvi.STL().differentiable_loss(normal_model, guide)
    says(error, *words)


@pytest.mark.parametrize("outputs", [2, 4])
def test_a_neural_baseline_of_the_wrong_shape(outputs):
    net = torch.nn.Linear(1, outputs)
    baseline = dsvi.baselines.Neural(net, inputs=lambda: torch.zeros(3, 1))

    def model():
        with pyro.plate("rows", 3):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(3))

    def guide():
        with pyro.plate("rows", 3):
            pyro.sample("z", dist.Bernoulli(logits=pyro.param("logit", torch.zeros(3))))

    objective = dsvi.ScoreFunctionELBO(baseline)
    with pytest.raises(errors.IncompatibleSite) as error:
        objective.loss_and_grads(model, guide)
    says(error, "'z'", f"(3, {outputs})", "(1, 3)", "one number for each plate element")


def test_refusals_come_before_any_draw():
    # The first latent of the guide is drawn by nobody when its estimator cannot be right.
    counter = Counter()

    def guide():
        pyro.sample("z", counter.of(dist.Normal(pyro.param("loc", torch.tensor(0.1)), 1.0)))

    for objective in (
        dsvi.MixedELBO(estimators={"z": dsvi.Pathwise()}),
        dsvi.MixedELBO(),
    ):
        objective.loss(normal_model, guide)
    drawn = counter.draws
    assert drawn == 2

    def wrong():
        law = counter.of(dist.Normal(pyro.param("loc", torch.tensor(0.1)), 1.0))
        pyro.sample("z", law, infer={"estimator": dsvi.ScoreFunction(LeaveOneOut())})

    with pytest.raises(errors.IncompatibleSite):
        dsvi.MixedELBO().loss(normal_model, wrong)
    assert counter.draws == drawn


# -- warnings, each given once -------------------------------------------------------------------


def warned(objective: Any, model: Any, guide: Any, steps: int = 3) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(steps):
            objective.loss_and_grads(model, guide)
        objective.loss(model, guide)
    return caught


def global_and_local():
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 4, subsample=torch.arange(4)):
        z = pyro.sample("z", dist.Normal(w, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(4))


def global_and_local_guide():
    pyro.sample("w", dist.Normal(pyro.param("w loc", torch.tensor(0.1)), 1.0))
    with pyro.plate("rows", 4, subsample=torch.arange(4)):
        pyro.sample("z", dist.Normal(pyro.param("z loc", torch.zeros(4)), 1.0))


@pytest.mark.parametrize("make", [lambda: dsvi.IWAE(3), lambda: dsvi.DReG(3)])
def test_merged_plates_are_named_once(make):
    caught = warned(make(), global_and_local, global_and_local_guide)
    assert [w.category for w in caught] == [errors.PlatesMergedWarning]
    message = str(caught[0].message)
    for word in ("'rows'", "'w'", "inside the plate"):
        assert word in message
    assert "'z'" not in message


def subsampled_model():
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 8, subsample=torch.arange(2)):
        pyro.sample("x", dist.Normal(w, 1.0), obs=torch.zeros(2))


def subsampled_guide():
    pyro.sample("w", dist.Normal(pyro.param("w loc", torch.tensor(0.1)), 1.0))


def test_a_scale_inside_the_logarithm_is_no_bound_and_said_once():
    caught = warned(dsvi.IWAE(3), subsampled_model, subsampled_guide)
    assert {w.category for w in caught} == {errors.PlatesMergedWarning, errors.NotABoundWarning}
    assert len(caught) == 2
    (message,) = [str(w.message) for w in caught if w.category is errors.NotABoundWarning]
    for word in ("'rows'", "subsampled", "dsvi.bounds.Evidence()"):
        assert word in message


@pytest.mark.parametrize(
    ("objective", "model", "guide"),
    [
        (dsvi.MixedELBO(num_particles=3), global_and_local, global_and_local_guide),
        (dsvi.IWAE(1), global_and_local, global_and_local_guide),
        (dsvi.IWAE(3), normal_model, normal_guide),
    ],
    ids=["additive", "one particle", "no plates"],
)
def test_nothing_is_said_where_nothing_is_merged(objective, model, guide):
    assert warned(objective, model, guide) == []


def stubborn_guide():
    z = pyro.sample("z", dist.Bernoulli(logits=pyro.param("logit", torch.tensor(0.1))))
    loc = 0.3 if z.item() else -0.3
    pyro.sample("w", dist.Normal(pyro.param("loc", torch.tensor(0.1)) + loc, 1.0))


def stubborn_model():
    z = pyro.sample("z", dist.Bernoulli(0.3))
    observe(z + pyro.sample("w", dist.Normal(0.0, 1.0)))


def test_a_loop_that_was_not_asked_for_is_said_once():
    caught = warned(dsvi.MixedELBO(num_particles=3), stubborn_model, stubborn_guide)
    assert [w.category for w in caught] == [errors.LoopedParticlesWarning]
    message = str(caught[0].message)
    for word in ("3 particles", "loop", "vectorize_particles=False"):
        assert word in message


def test_a_program_that_broadcasts_wrongly_without_an_error_is_looped():
    def model():
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(), 1.0), obs=X)  # sums over the particles as well

    def guide():
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(2)), 1.0).to_event(1))

    caught = warned(dsvi.MixedELBO(num_particles=3), model, guide)
    assert [w.category for w in caught] == [errors.LoopedParticlesWarning]
    assert "'x'" in str(caught[0].message)


def test_a_loop_that_was_asked_for_is_not_said():
    objective = dsvi.MixedELBO(num_particles=3, vectorize_particles=False)
    assert warned(objective, stubborn_model, stubborn_guide) == []


def test_each_objective_says_it_for_itself():
    for _ in range(2):
        assert len(warned(dsvi.IWAE(3), global_and_local, global_and_local_guide)) == 1


def test_enumeration_that_does_not_happen_is_said_once():
    guide = annotated(bernoulli, enumerate="sequential")
    caught = warned(dsvi.MixedELBO(), binary_model, guide)
    assert [w.category for w in caught] == [dsvi.DSVIWarning]
    assert "'z'" in str(caught[0].message)

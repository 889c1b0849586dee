"""Parameters and optimizers that are handled between steps."""

import pyro
import pyro.distributions as dist
import torch
from pyro import optim, param, sample
from pyro.distributions import constraints
from pyro.infer.autoguide import AutoNormal

import pyro_dsvi as dsvi
from tests.compiled.hostile.case import (
    CHANGE,
    Case,
    Hostile,
    X,
    around_zero,
    mean_field,
    observe,
)


def slope():
    observe(around_zero() * X)


def parameters_that_come_late():
    """A parameter is asked for from some step on."""
    flag = {"late": False}

    def model():
        shift = param("shift", torch.zeros(())) if flag["late"] else 0.0
        observe(around_zero() * X + shift)

    def before(step):
        flag["late"] = step >= CHANGE

    return Case(model, mean_field(), before)


def a_cleared_store():
    """All parameters start anew."""

    def before(step):
        if step in (2, CHANGE):
            pyro.clear_param_store()

    return Case(slope, mean_field(), before)


def a_store_put_back():
    """The parameters of an earlier step come back, in one go."""
    store = pyro.get_param_store()
    kept = {}

    def before(step):
        if step == 6:
            state = store.get_state()
            kept["params"] = {k: v.detach().clone() for k, v in state["params"].items()}
            kept["constraints"] = dict(state["constraints"])
        if step == 11:
            store.set_state(
                {
                    "params": {k: v.clone().requires_grad_() for k, v in kept["params"].items()},
                    "constraints": kept["constraints"],
                }
            )

    return Case(slope, mean_field(), before)


def a_parameter_set_anew():
    """A parameter becomes another tensor, by its name in the store."""

    def before(step):
        if step == CHANGE:
            pyro.get_param_store()["loc z"] = torch.tensor(-2.0)

    return Case(slope, mean_field(), before)


def a_parameter_changed_in_place():
    """Its content is set, as a restart does."""

    def before(step):
        if step == CHANGE:
            with torch.no_grad():
                param("loc z").fill_(-2.0)
                param("scale z").unconstrained().zero_()

    return Case(slope, mean_field(), before)


def a_parameter_with_another_constraint():
    """The same name and content, but what it stands for is another number."""
    support = {"scale": constraints.positive}

    def guide():
        loc = param("loc", torch.tensor(0.1))
        scale = param("scale", torch.tensor(0.5), constraint=support["scale"])
        sample("z", dist.Normal(loc, scale + 0.1))

    def before(step):
        if step == CHANGE:
            support["scale"] = constraints.interval(0.0, 0.7)
            del pyro.get_param_store()["scale"]

    return Case(slope, guide, before)


class Scheduled:
    """An optimizer whose handle the case keeps."""

    def __init__(self, make):
        self.make = make
        self.made = None

    def __call__(self):
        self.made = self.make()
        return self.made


def a_learning_rate_set_by_hand():
    """The rate in the optimizer's groups is changed between steps."""
    keeper = Scheduled(lambda: optim.Adam({"lr": 0.05}))

    def before(step):
        for optimizer in keeper.made.optim_objs.values():
            for group in optimizer.param_groups:
                group["lr"] = 0.05 / (1 + step)

    return Case(slope, mean_field(), before, optim=keeper)


def a_learning_rate_schedule():
    """A scheduler of torch's steps between the steps."""
    keeper = Scheduled(
        lambda: optim.ExponentialLR(
            {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.1}, "gamma": 0.8}
        )
    )

    def before(step):
        if step > 0:
            keeper.made.step()

    return Case(slope, mean_field(), before, optim=keeper)


def a_rate_that_decays_by_itself():
    """Pyro's ClippedAdam lowers its rate at every step, and clips."""
    return Case(
        slope,
        mean_field(),
        optim=lambda: optim.ClippedAdam({"lr": 0.1, "lrd": 0.9, "clip_norm": 1.0}),
    )


def momentum_switched_on():
    """SGD gets a momentum between steps."""
    keeper = Scheduled(lambda: optim.SGD({"lr": 1e-3}))

    def before(step):
        for optimizer in keeper.made.optim_objs.values():
            optimizer.param_groups[0]["momentum"] = 0.0 if step < CHANGE else 0.9

    return Case(slope, mean_field(), before, optim=keeper)


def an_optimizers_state_loaded():
    """The optimizer goes back to where it was some steps ago."""
    import copy

    keeper, kept = Scheduled(lambda: optim.Adam({"lr": 0.05})), {}

    def before(step):
        if step == 6:
            kept.update(copy.deepcopy(keeper.made.get_state()))
        if step == 11:
            for name, optimizer in zip(kept, keeper.made.optim_objs.values(), strict=True):
                optimizer.load_state_dict(copy.deepcopy(kept[name]))

    return Case(slope, mean_field(), before, optim=keeper)


def an_optimizers_state_looked_at():
    """What the optimizer says of itself is what an eager one would."""
    keeper = Scheduled(lambda: optim.Adam({"lr": 0.05}))

    def state():
        found = []
        for name, part in sorted(keeper.made.get_state().items()):
            for moments in part["state"].values():
                found += [name, *(torch.as_tensor(moments[key]) for key in sorted(moments))]
        return found

    return Case(slope, mean_field(), optim=keeper, state=state)


def an_optimizer_without_a_counterpart():
    """Not every optimizer can be in the graph."""
    return Case(slope, mean_field(), optim=lambda: optim.RMSprop({"lr": 0.01}))


def clipped_gradients():
    """Pyro clips by its own, before the update."""
    return Case(slope, mean_field(), optim=lambda: optim.Adam({"lr": 0.05}, {"clip_norm": 0.1}))


def a_parameter_trained_by_two():
    """Somebody else takes steps on the same parameters, in between."""
    others = {}

    def before(step):
        if not others:
            others["svi"] = pyro.infer.SVI(
                slope, mean_field(), optim.SGD({"lr": 1e-3}), dsvi.PathwiseELBO()
            )
        if step % 3 == 2:
            others["svi"].step()

    return Case(slope, mean_field(), before)


def guides_that_set_themselves_up():
    """An automatic guide, whose model is looked at in its first step."""
    return Case(slope, AutoNormal(slope))


def moments_of_the_guide_between_steps():
    """The guide is called, and the loss is looked at, between steps."""
    guide = mean_field()
    loss = dsvi.PathwiseELBO()

    def before(step):
        guide()
        loss.loss(slope, guide)

    return Case(slope, guide, before)


PROGRAMS = [
    Hostile(parameters_that_come_late),
    Hostile(a_cleared_store, free=True),
    Hostile(a_store_put_back),
    Hostile(a_parameter_set_anew),
    Hostile(a_parameter_changed_in_place, tame=True),
    Hostile(a_parameter_with_another_constraint),
    Hostile(a_learning_rate_set_by_hand, tame=True),
    Hostile(a_learning_rate_schedule, tame=True),
    Hostile(a_rate_that_decays_by_itself, tame=True),
    Hostile(momentum_switched_on, tame=True),
    Hostile(an_optimizers_state_loaded, tame=True),
    Hostile(an_optimizers_state_looked_at, tame=True),
    Hostile(an_optimizer_without_a_counterpart, "update is not", tame=True),
    Hostile(clipped_gradients, "update is not", tame=True),
    Hostile(a_parameter_trained_by_two, tame=True),
    Hostile(guides_that_set_themselves_up, tame=True),
    Hostile(moments_of_the_guide_between_steps, tame=True),
]

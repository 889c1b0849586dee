"""describe says, for each latent site, which estimator it got, why, and whether it is unbiased."""

import copy
from dataclasses import dataclass
from typing import ClassVar

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_dsvi as dsvi
from pyro_dsvi.estimators import Bias


@dataclass(frozen=True)
class Halved(dsvi.ScoreFunction):
    """A biased estimator, for the asking."""

    bias: ClassVar[Bias] = Bias.BIASED


def model():
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Bernoulli(0.3))
    g = pyro.sample("g", dist.Gamma(2.0, 1.0))
    c = pyro.sample("c", dist.Categorical(torch.ones(3) / 3))
    d = pyro.sample("d", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(z + b + g + c + d, 1.0), obs=torch.tensor(0.3))


def guide():
    pyro.sample("z", dist.Normal(pyro.param("z loc", torch.tensor(0.1)), 1.0))
    pyro.sample("b", dist.Bernoulli(logits=pyro.param("b logit", torch.tensor(0.1))))
    pyro.sample("g", dist.Gamma(pyro.param("g shape", torch.tensor(2.0)), 1.0))
    infer = {"estimator": dsvi.ScoreFunction(dsvi.baselines.MovingAverage())}
    pyro.sample("c", dist.Categorical(logits=pyro.param("c logits", torch.zeros(3))), infer=infer)
    pyro.sample("d", dist.Delta(pyro.param("d at", torch.tensor(0.2))))
    pyro.sample("u", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})


def test_each_sites_estimator_reason_and_bias(capsys):
    objective = dsvi.MixedELBO(
        num_particles=2, vectorize_particles=False, estimators={"g": dsvi.ScoreFunction()}
    )
    choices = objective.describe(model, guide)
    assert list(choices) == ["z", "b", "g", "c", "d", "u"]
    found = {
        name: (
            type(choice.estimator).__name__,
            type(choice.estimator.baseline).__name__,
            choice.estimator.bias,
        )
        for name, choice in choices.items()
    }
    unbiased = Bias.UNBIASED
    assert found == {
        "z": ("Pathwise", "NoneType", unbiased),
        "b": ("ScoreFunction", "LeaveOneOut", unbiased),
        "g": ("ScoreFunction", "NoneType", unbiased),
        "c": ("ScoreFunction", "MovingAverage", unbiased),
        "d": ("Pathwise", "NoneType", unbiased),
        "u": ("Pathwise", "NoneType", unbiased),
    }
    for name, words in {
        "z": "Normal has rsample",
        "b": "Bernoulli has no rsample",
        "g": "by name in the objective",
        "c": "asked for by the site",
        "d": "point mass",
    }.items():
        assert words in choices[name].reason
    lines = capsys.readouterr().out.splitlines()
    assert "Evidence()" in lines[0]
    assert "2" in lines[0]
    assert "live" in lines[0]
    for name, choice in choices.items():
        (line,) = [line for line in lines if line.split()[0] == name]
        for cell in (type(choice.estimator).__name__, "unbiased", choice.reason):
            assert cell in line
    assert "MovingAverage" in "\n".join(lines)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dsvi.ScoreFunctionELBO(), "every site"),
        (lambda: dsvi.MixedELBO(), "one particle"),
        (lambda: dsvi.IWAE(3, vectorize_particles=False), "IWAE()"),
        (lambda: dsvi.Renyi(0.5, 3, vectorize_particles=False), "Renyi(alpha=0.5)"),
    ],
)
def test_the_head_names_bound_and_particles(make, words, capsys):
    make().describe(model, guide)
    assert words in capsys.readouterr().out


def test_frozen_densities_are_said(capsys):
    def normal_model():
        pyro.sample("z", dist.Normal(0.0, 1.0))

    def normal_guide():
        pyro.sample("z", dist.Normal(pyro.param("z loc", torch.tensor(0.1)), 1.0))

    dsvi.STL().describe(normal_model, normal_guide)
    assert "frozen" in capsys.readouterr().out


def test_a_biased_estimator_is_shown_and_warned_of_once(capsys):
    objective = dsvi.MixedELBO(estimators={"b": Halved()})
    with pytest.warns(dsvi.errors.BiasedEstimatorWarning, match=r"'b'.*Halved.*biased"):
        choices = objective.describe(model, guide)
    assert choices["b"].estimator.bias is Bias.BIASED
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("b ")]
    assert "biased" in line.split()
    assert "unbiased" not in line
    objective.describe(model, guide)
    objective.loss_and_grads(model, guide)


def test_a_partly_reparameterised_site_says_so():
    class Marsaglia(dist.Gamma):
        def score_parts(self, x, *args, **kwargs):
            return super().score_parts(x, *args, **kwargs)

    def partly():
        pyro.sample("z", Marsaglia(pyro.param("shape", torch.tensor(2.0)), 1.0))

    def whole():
        pyro.sample("z", dist.Gamma(2.0, 1.0))

    assert "the rest by its score" in dsvi.MixedELBO().describe(whole, partly)["z"].reason


def test_describing_learns_nothing_and_passes_arguments():
    def args_model(x, *, scale):
        b = pyro.sample("b", dist.Bernoulli(0.3))
        pyro.sample("x", dist.Normal(b, scale), obs=x)

    def args_guide(x, *, scale):
        pyro.sample("b", dist.Bernoulli(logits=pyro.param("logit", torch.tensor(0.1))))

    objective = dsvi.ScoreFunctionELBO(dsvi.baselines.MovingAverage())
    x = torch.tensor(0.3)
    objective.loss_and_grads(args_model, args_guide, x, scale=1.0)
    before = copy.deepcopy(objective.state_dict())
    gradient = pyro.param("logit").grad.clone()
    choices = objective.describe(args_model, args_guide, x, scale=1.0)
    assert list(choices) == ["b"]
    for key, value in before.items():
        torch.testing.assert_close(objective.state_dict()[key], value, atol=0, rtol=0)
    assert torch.equal(pyro.param("logit").grad, gradient)


def test_a_refused_site_is_refused_here_too():
    with pytest.raises(dsvi.errors.IncompatibleSite, match=r"'b'.*no rsample"):
        dsvi.PathwiseELBO().describe(model, guide)


def test_a_second_pair_is_described_by_itself():
    def other_guide():
        probs = pyro.param("probs", torch.tensor(0.4))
        pyro.sample("b", dist.Bernoulli(probs), infer={"enumerate": "parallel"})

    def one_model():
        pyro.sample("b", dist.Bernoulli(0.3))

    def one_guide():
        pyro.sample("b", dist.Bernoulli(pyro.param("own probs", torch.tensor(0.4))))

    def chosen(one):
        return {name: type(choice.estimator) for name, choice in one.items()}

    objective = dsvi.MixedELBO(num_particles=2)
    alone = chosen(dsvi.MixedELBO(num_particles=2).describe(one_model, one_guide))
    first = chosen(objective.describe(one_model, other_guide))
    objective.loss_and_grads(one_model, other_guide)
    assert chosen(objective.describe(one_model, one_guide)) == alone
    assert chosen(objective.describe(one_model, other_guide)) == first

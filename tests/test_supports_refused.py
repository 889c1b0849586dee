"""What cannot be summed over is refused by name, and what does not happen is not claimed."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import param, poutine, sample
from pyro.infer import config_enumerate

import pyro_dsvi as dsvi
from pyro_dsvi.errors import IncompatibleSite, InvalidArgument, SiteMismatch
from tests.scenarios import f64, flip, gauss

WHOLE = {"enumerate": "parallel"}
ELBO = dsvi.bounds.Evidence()


def eta(size=()):
    return param("eta", torch.full(size, 0.3, dtype=torch.float64))


def bit_model():
    gauss("x", flip("b", 0.2), 0.0, obs=f64(0.4))


def bit_guide(**infer):
    return flip("b", eta(), infer=infer)


def loss(model, guide, estimators=None, bound=ELBO, **options):
    return dsvi.Objective(bound, estimators=estimators, **options).loss_and_grads(model, guide)


# -- bounds -------------------------------------------------------------------------------------

MANY = [dsvi.bounds.IWAE(), dsvi.bounds.Renyi(0.5)]


@pytest.mark.parametrize("bound", MANY)
def test_a_k_sample_bound_by_name(bound):
    with pytest.raises(InvalidArgument, match=r"'b'.*another, tighter bound.*Marginalize\(\)"):
        dsvi.Objective(bound, num_particles=2, estimators={"b": dsvi.Enumerate()})


@pytest.mark.parametrize("infer", [WHOLE, {"estimator": dsvi.Enumerate()}], ids=["mark", "own"])
@pytest.mark.parametrize("bound", MANY)
def test_a_k_sample_bound_by_the_site(bound, infer):
    with pytest.raises(IncompatibleSite, match=r"'b'.*another, tighter bound.*Marginalize\(\)"):
        loss(bit_model, lambda: bit_guide(**infer), bound=bound, num_particles=2)


# -- supports -----------------------------------------------------------------------------------


def poisson():
    return sample("k", dist.Poisson(eta().exp()))


def normal():
    return sample("k", dist.Normal(eta(), 1.0))


def bits():
    return sample("k", dist.Bernoulli(logits=eta((10,))).to_event(1))


def one_hots():
    return sample("k", dist.OneHotCategorical(logits=eta((4, 3))).to_event(1))


def unequal():
    return sample("k", dist.Binomial(f64([2.0, 3.0]), logits=eta((2,))))


@pytest.mark.parametrize("estimator", [dsvi.Enumerate(), dsvi.Marginalize()])
@pytest.mark.parametrize(
    ("program", "words"),
    [
        (poisson, "Poisson has no finite support"),
        (normal, "Normal has no finite support"),
        (bits, r"2\^10 joint values.*pyro.plate"),
        (one_hots, r"3\^4 joint values.*pyro.plate"),
        (unequal, "Binomial has no finite support.*[Ii]nhomogeneous"),
    ],
)
def test_no_support_to_enumerate(program, words, estimator):
    with pytest.raises(IncompatibleSite, match=rf"'k': {type(estimator).__name__}: .*{words}"):
        loss(program, program, {"k": estimator})


def test_no_support_to_enumerate_in_the_model():
    def model():
        sample("k", dist.Poisson(f64(1.0)), infer=WHOLE)

    with pytest.raises(IncompatibleSite, match=r"'k': Poisson has no finite support.*guide"):
        loss(model, lambda: None)


def test_tensor_monte_carlo_in_the_model():
    """Many draws of a site are no sum over its support."""
    with pytest.raises(SiteMismatch, match=r"'b'.*guide does not"):
        loss(config_enumerate(bit_model, num_samples=3), lambda: None)


def test_a_site_of_the_model_without_mark():
    with pytest.raises(SiteMismatch, match=r"'b'.*mark it infer=.*parallel"):
        loss(bit_model, lambda: None)


# -- programs -----------------------------------------------------------------------------------


def branching_model():
    gauss("x", 1.0 if flip("b", 0.2) else 0.0, 0.0, obs=f64(0.4))


def indexing_model():
    gauss("x", [0.0, 1.0][int(flip("b", 0.2))], 0.0, obs=f64(0.4))


def reading_model():
    gauss("x", flip("b", 0.2).item(), 0.0, obs=f64(0.4))


@pytest.mark.parametrize("model", [branching_model, indexing_model, reading_model])
@pytest.mark.parametrize("estimator", [dsvi.Enumerate(), dsvi.Marginalize()])
def test_python_asks_for_one_value(model, estimator):
    with pytest.raises(IncompatibleSite, match=r"'b': the value is the whole support at once"):
        loss(model, bit_guide, {"b": estimator})


def test_an_error_of_the_programs_own_stays_its_own():
    def model():
        bit_model()
        raise RuntimeError("more than one value is ambiguous, says the program")

    with pytest.raises(RuntimeError, match="says the program") as caught:
        loss(model, bit_guide, {"b": dsvi.ScoreFunction()})
    assert not isinstance(caught.value, IncompatibleSite)


def test_values_mixed_without_an_error():
    """A scalar times two numbers, summed: with both values of the bit it is something else."""

    def model():
        gauss("x", (flip("b", 0.2) * f64([1.0, 2.0])).sum(), 0.0, obs=f64(0.4))

    with pytest.raises(IncompatibleSite, match=r"'x': its log density is another when 'b'"):
        loss(model, bit_guide, {"b": dsvi.Enumerate()})
    loss(model, bit_guide, {"b": dsvi.ScoreFunction()})


def test_values_mixed_by_the_model_alone():
    def model():
        b = flip("b", 0.2, infer=WHOLE)
        gauss("x", (b * f64([1.0, 2.0])).sum(), 0.0, obs=f64(0.4))

    with pytest.raises(IncompatibleSite, match=r"'x': its log density is another when 'b'"):
        loss(model, lambda: None)


def test_a_program_with_chance_of_its_own_is_not_accused():
    def model():
        gauss("x", flip("b", 0.2) + torch.rand((), dtype=torch.float64), 0.0, obs=f64(0.4))

    loss(model, bit_guide, {"b": dsvi.Enumerate()})


def test_a_value_leaves_its_plate():
    def model():
        with pyro.plate("data", 3):
            b = flip("b", 0.2)
        gauss("x", b.mean(-1, keepdim=b.dim() > 1), 0.0, obs=f64(0.4))

    def guide():
        with pyro.plate("data", 3):
            flip("b", eta((3,)))

    with pytest.raises(IncompatibleSite, match=r"'b'.*inside plate 'data'.*'x' outside"):
        loss(model, guide, {"b": dsvi.Enumerate()})


def test_plates_that_are_no_tree():
    """Each pair of a row and a column is tied to both: no elimination is cheap."""

    def model():
        rows, columns = pyro.plate("rows", 2, dim=-2), pyro.plate("columns", 3, dim=-1)
        with rows:
            a = flip("a", 0.2, infer=WHOLE)
        with columns:
            b = flip("b", 0.1, infer=WHOLE)
        with rows, columns:
            gauss("x", a + b, 0.0, obs=torch.zeros(2, 3, dtype=torch.float64))

    with pytest.raises(IncompatibleSite, match=r"'a', 'b', 'x': their plates overlap.*tree.*guide"):
        loss(model, lambda: None)


def test_scales_that_differ_under_one_sum():
    def model():
        b = flip("b", 0.2, infer=WHOLE)
        with pyro.plate("data", 4, subsample=torch.tensor([0, 1])):
            gauss("x", b, 0.0, obs=f64([0.1, 0.2]))

    with pytest.raises(IncompatibleSite, match=r"'x': its scale is 2, but that of 'b' is 1"):
        loss(model, lambda: None)


def test_a_scale_for_each_element():
    def model():
        with pyro.plate("data", 2), poutine.scale(scale=f64([1.0, 2.0])):
            gauss("x", flip("b", 0.2, infer=WHOLE), 0.0, obs=f64([0.1, 0.2]))

    with pytest.raises(IncompatibleSite, match=r"'[bx]': its scale has shape \(2,\)"):
        loss(model, lambda: None)


def test_a_batch_that_no_plate_declares():
    def model():
        b = flip("b", f64([0.1, 0.2]), infer=WHOLE)
        with pyro.plate("data", 2):
            gauss("x", b, 0.0, obs=f64([0.1, 0.2]))

    with pytest.raises(SiteMismatch, match=r"'b'.*pyro.plate"):
        loss(model, lambda: None)


def test_fewer_plates_declared_than_there_are():
    def guide():
        with pyro.plate("data", 2):
            flip("b", eta())

    def model():
        with pyro.plate("data", 2):
            bit_model()

    with pytest.raises(InvalidArgument, match=r"plate 'data' is at dimension -1.*max_plate_nest"):
        loss(model, guide, {"b": dsvi.Enumerate()}, max_plate_nesting=0)


# -- what is summed out of the model has no value in the guide -----------------------------------


def test_a_site_of_the_guide_depends_on_what_is_summed_out():
    def guide():
        gauss("z", bit_guide(), 0.0)

    def model():
        bit_model()
        gauss("z", 0.0, 0.0)

    with pytest.raises(IncompatibleSite, match=r"'z': the guide draws it given 'b'.*summed out"):
        loss(model, guide, {"b": dsvi.Marginalize()})


def test_an_auxiliary_site_is_not_the_models_to_sum_out():
    def guide():
        flip("u", eta(), infer={"is_auxiliary": True})
        flip("b", 0.1)

    with pytest.raises(IncompatibleSite, match=r"'u': Marginalize: the model has no.*Enumerate"):
        loss(bit_model, guide, {"u": dsvi.Marginalize()})


def test_a_handler_gives_one_value():
    given = poutine.replay(bit_guide, trace=poutine.trace(bit_guide).get_trace())
    with pytest.raises(IncompatibleSite, match=r"'b': Enumerate sums over all values.*handler"):
        loss(bit_model, given, {"b": dsvi.Enumerate()})


# -- which mark means what ------------------------------------------------------------------------


def chosen(guide, **options):
    return dsvi.Objective(ELBO, **options).describe(bit_model, guide)["b"]


def test_pyros_mark_asks_for_the_sum(capsys):
    choice = chosen(lambda: bit_guide(**WHOLE))
    assert choice.estimator == dsvi.Enumerate()
    said = capsys.readouterr().out
    assert "Enumerate  -         unbiased  asked for by infer={'enumerate': 'parallel'}" in said


def test_a_choice_of_ours_comes_before_pyros_mark():
    with pytest.warns(dsvi.DSVIWarning, match=r"'b' is marked.*but is sampled.*Enumerate\(\)"):
        choice = chosen(lambda: bit_guide(**WHOLE), estimators={"b": dsvi.ScoreFunction()})
    assert choice.estimator == dsvi.ScoreFunction()


@pytest.mark.parametrize("infer", [{"enumerate": "sequential"}, {**WHOLE, "num_samples": 3}])
def test_other_marks_are_sampled_and_that_is_said(infer):
    with pytest.warns(dsvi.DSVIWarning, match=r"'b' is marked.*but is sampled.*Enumerate\(\)"):
        choice = chosen(lambda: bit_guide(**infer))
    assert choice.estimator == dsvi.ScoreFunction()

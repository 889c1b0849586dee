"""What local reparameterization costs as a handler, beside the same step written by hand in torch.

A network 784-400-400-10, batch 128, a mean-field normal guide, the divergence in closed form.
"""

import pyro
import pyro.distributions as dist

import pyro_dsvi as dsvi
from benchmarks.compare import compare, how
from benchmarks.contenders import by_hand, in_pyro
from benchmarks.contenders.runner import Runner
from benchmarks.interleave import pinned
from benchmarks.problem import Program
from benchmarks.programs.bnn import BNN, ROWS
from benchmarks.report import Bars, Report, Settings, Target

NAME = "local"
HAND, HAND_COMPILED = "by hand", "by hand, torch.compile"
EAGER, COMPILED = "handler", "handler, compiled"
PLAIN = "no handler"
PARTICLES = 8
ONE, MANY = "1 particle", f"{PARTICLES} particles side by side"
STEP_AT_MOST, PARTICLES_AT_MOST = 1.1, 5.0


class Broadcasting(BNN):
    """The same network and guide; its program multiplies by ``@``, for any number of particles."""

    def in_pyro(self, device: str = "cpu") -> Program:
        written = super().in_pyro(device)
        shapes = {name: array.shape for name, array in self.means.items()}

        def model(x, labels):
            drawn = {
                n: pyro.sample(n, dist.Normal(x.new_zeros(shape), 1.0).to_event(len(shape)))
                for n, shape in shapes.items()
            }
            for i in range(3):
                x = x @ drawn[f"weight{i}"].mT + drawn[f"bias{i}"].unsqueeze(-2)
                x = x.relu() if i < 2 else x
            x = x.squeeze(-3) if x.dim() > 3 else x
            with pyro.poutine.scale(scale=ROWS / len(labels)), pyro.plate("images", len(labels)):
                pyro.sample("label", dist.Categorical(logits=x), obs=labels)

        return Program(model, written.guide, written.args)


def run(settings: Settings) -> Report:
    """Time the steps."""
    rounds = 3 if settings.quick else 40
    report = Report(NAME, "a step of local reparameterization beside one written by hand")
    report.notes.append(how(settings, rounds))
    comparisons = [
        ("eager", (HAND, EAGER, PLAIN), EAGER, HAND, STEP_AT_MOST),
        ("compiled", (HAND_COMPILED, COMPILED), COMPILED, HAND_COMPILED, STEP_AT_MOST),
        (f"{PARTICLES} particles and one", (ONE, MANY), MANY, ONE, PARTICLES_AT_MOST),
    ]
    if settings.quick:
        del comparisons[1]  # a minute of a compiler's time
    with pinned(settings.threads):
        for where, names, ours, theirs, limit in comparisons:
            contenders = [runner(name, settings.seed).contender(name) for name in names]
            found = compare(report, settings, where, contenders, against=[theirs], rounds=rounds)
            what = f"CPU time a step ÷ {theirs}: {ours}"
            ratios = [found[name][1][theirs] for name in names]
            report.targets.append(Target(what, found[ours][1][theirs], limit))
            report.panels.append(Bars(what, names, ratios, limit))
    return report


def runner(name: str, seed: int) -> Runner:
    """One way to make a step, by its name."""
    kind = Broadcasting if name in (ONE, MANY) else BNN
    problem = kind(seed, local=True)
    if name in (HAND, HAND_COMPILED):
        return (by_hand.Eager if name == HAND else by_hand.Compiled)(problem, 1)
    number = PARTICLES if name == MANY else 1
    loss = dsvi.PathwiseELBO(
        analytic_kl=True,
        num_particles=number,
        vectorize_particles=number > 1,
        compiled=name == COMPILED,
    )

    def make() -> Program:
        program = problem.in_pyro()
        if name == PLAIN:
            return program
        handler = dsvi.handlers.local_reparameterization
        return Program(*handler(program.model, program.guide), program.args)

    if name == COMPILED:
        return in_pyro.Compiled(make, loss, seed=seed)
    return in_pyro.Stepwise(make, loss, seed=seed, optimizer=dsvi.optim.FusedAdam)

"""The guide once more, one site at another value, for the credit it would have had."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_dsvi.errors import IncompatibleSite
from pyro_dsvi.estimators import Estimator
from pyro_dsvi.graph.influence import Influence
from pyro_dsvi.graph.nodes import EVERYTHING, Latent, Run
from pyro_dsvi.passes.sample import Choose, Sample
from pyro_dsvi.strategy import Choice


@dataclass(frozen=True, eq=False)
class Question:
    """Rows of a run in which one site has other values.

    Attributes:
        site: the site.
        estimator: the estimator that asks.
        bit: the site's own bit.
        values: its values, shape ``[rows, *value.shape without particles]``; or one value, without
            the leading axis, where particles go one by one.
        rows: where its rows stand in the run.
        slopes: whether the answer is to be differentiable in the values.
    """

    site: str
    estimator: Estimator
    bit: int
    values: Tensor
    rows: slice
    slopes: bool


def batches(asking: Iterable[Latent], run: Run) -> Iterator[list[tuple[Latent, Question]]]:
    """The latents' questions, batch by batch: what is answered by one further run.

    Particles that stand side by side ask all in one; those in a loop one thing at a time.
    """
    batch: list[tuple[Latent, Question]] = []
    start = 0
    for latent in asking:
        asked = latent.counterfactual
        assert asked is not None  # as selected
        values = asked.values.requires_grad_() if asked.slopes else asked.values
        for part in values if run.nesting is None else [values.flatten(0, 1)]:
            rows = slice(start, start + (1 if run.nesting is None else len(part)))
            question = Question(latent.site, latent.estimator, latent.bit, part, rows, asked.slopes)
            if run.nesting is None:
                yield [(latent, question)]
                continue
            batch.append((latent, question))
            start = rows.stop
    if batch:
        yield batch


class Redraw(Sample):
    """Records a run of the guide in which each row asks one question.

    In the rows of a question its site has the values asked about; sites that it reaches are drawn
    anew, and all others keep the values of the first run.

    Args:
        first: record of the guide's first run.
        influence: follows this run.
        questions: the questions, in the order of their rows.
        stacked: whether particles stand side by side, as rows of one run.
        subsamples: minibatches of the first run.
    """

    def __init__(
        self,
        first: Sample,
        influence: Influence,
        questions: Sequence[Question],
        *,
        stacked: bool,
        subsamples: dict[str, Any],
    ) -> None:
        super().__init__(
            as_before(first),
            influence,
            follow_all=first.follow_all,
            subsamples=subsamples,
            supports=first.supports,
        )
        self.first: Mapping[str, Any] = first.sites
        self.laws: Mapping[str, int] = first.reach_of_law
        self.questions = questions
        self.stacked = stacked

    def _draw(self, msg: Any, estimator: Estimator) -> None:
        if estimator.enumerates:  # all values, whatever lies upstream
            return
        before = self.first.get(msg["name"])
        law = EVERYTHING if before is None else self.laws.get(msg["name"], EVERYTHING)
        fresh: Tensor | None = None
        parts = []
        for question in self.questions:
            if question.site == msg["name"]:
                parts.append(question.values)
            elif before is not None and not law & question.bit:
                parts.append(self._held(before["value"], question))
            else:
                fresh = self._fresh(msg, estimator, question) if fresh is None else fresh
                parts.append(fresh[question.rows] if self.stacked else fresh)
        msg["value"] = parts[0] if len(parts) == 1 else torch.cat(parts)
        msg["done"] = True

    def _cut(self, msg: Any, estimator: Estimator) -> None:
        """Nothing to do: what passes no gradient has been cut where it was drawn."""

    def _held(self, value: Tensor, question: Question) -> Tensor:
        value = value.detach()
        if not self.stacked:
            return value
        rows = question.rows.stop - question.rows.start
        return value.repeat(rows // len(value), *(1,) * (value.dim() - 1))

    def _fresh(self, msg: Any, estimator: Estimator, question: Question) -> Tensor:
        if not question.slopes:
            return estimator.draw(msg["fn"]).detach()
        value = estimator.stand_in(msg["fn"])
        if value is None:
            raise IncompatibleSite(
                f"site {question.site!r}: {type(question.estimator).__name__} differentiates its "
                f"credit, but draws of the site {msg['name']!r} downstream pass no gradient under "
                f"{type(estimator).__name__}; use an estimator without slopes at "
                f"{question.site!r}, such as dsvi.estimators.DisARM()"
            )
        return value


def as_before(first: Sample) -> Choose:
    """The choices of an earlier run, where it made any."""

    def choose(name: str, q: Any, infer: dict[str, Any]) -> Choice:
        return first.choices.get(name) or first.choose(name, q, infer)

    return choose

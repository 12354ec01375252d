"""Metrics: how good one answer is, in [0, 1], and what a set of scores comes to.

A metric says what it reads. `text` metrics compare a greedily generated answer with the right ones,
`choices` metrics compare the likelihood of given choices, and `reference` metrics need no right answer: they
compare the pruned model with the unpruned one.
"""

import math
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

from studies.errors import MetricError, did_you_mean

_ARTICLES = frozenset({"a", "an", "the"})
_APOSTROPHES = str.maketrans("", "", "'’`")


def normalise(text: str) -> str:
    """Folds case and Unicode forms (NFKC), drops punctuation, symbols, articles and extra space.

    Marks inside numbers stay (3.5, 12:30, -1). Articles go only where words remain beside them, so that the
    answer "A" is not an empty one; a text of punctuation alone stays. Ours, after SQuAD's normalisation.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    bare = folded.translate(_APOSTROPHES)
    words = "".join(mark if _counts(bare, at) else " " for at, mark in enumerate(bare)).split()
    return " ".join([word for word in words if word not in _ARTICLES] or words) or folded.strip()


def _counts(text: str, at: int) -> bool:
    """Whether the character is no punctuation, or is part of a number."""
    mark, before, after = text[at], text[at - 1 : at], text[at + 1 : at + 2]
    if unicodedata.category(mark)[0] not in "PS":
        return True
    inside = mark in ".,:/" and before.isdigit()
    leading = mark in "-." and not before.isalnum()
    return after.isdigit() and (inside or leading)


class Metric(ABC):
    """Scores answers one by one. Subclasses say what they read and write `score`."""

    name: ClassVar[str]
    reads: ClassVar[Literal["text", "choices", "reference"]] = "text"

    @abstractmethod
    def score(self, prediction: str, answers: Sequence[str], kl: float) -> float:
        """The score of one sample, in [0, 1].

        `prediction` is the generated answer, or the likeliest choice; `answers` are the right ones, at least
        one unless the metric reads `reference`; `kl` is KL(unpruned || pruned) in nats of the distributions
        that the evaluator compared (the first answer token's; for `reference` the mean over the answer).
        """

    def aggregate(self, scores: Sequence[float]) -> float:
        """The accuracy that per-sample scores come to: their mean. MetricError when there are none."""
        if not scores:
            raise MetricError(f"{self.name} of no samples is undefined: evaluate at least one")
        return math.fsum(scores) / len(scores)


class ExactMatch(Metric):
    """1 where the answer equals any right one after `normalise`."""

    name = "exact_match"

    def score(self, prediction: str, answers: Sequence[str], kl: float) -> float:  # noqa: ARG002
        return float(normalise(prediction) in {normalise(answer) for answer in answers})


class Choice(ExactMatch):
    """1 where the likeliest of a row's choices is a right answer.

    A choice's likelihood is the sum of its tokens' log-probabilities after the prompt, not divided by its
    length; of equals the earlier wins.
    """

    name = "choice"
    reads = "choices"

    def score(self, prediction: str, answers: Sequence[str], kl: float) -> float:  # noqa: ARG002
        return float(prediction in answers)


class Fidelity(Metric):
    """exp(-KL(unpruned || pruned)) of the next-token distributions along the unpruned model's own answer.

    The answer is greedy and ends with its end token; KL is the mean over its tokens. Needs no right answers.
    """

    name = "fidelity"
    reads = "reference"

    def score(self, prediction: str, answers: Sequence[str], kl: float) -> float:  # noqa: ARG002
        return math.exp(-kl)


class Anls(Metric):
    """Normalised Levenshtein similarity to the nearest right answer; 0 from half wrong on.

    Biten et al., "Scene Text Visual Question Answering" (2019); case and extra space do not count.
    """

    name = "anls"

    def score(self, prediction: str, answers: Sequence[str], kl: float) -> float:  # noqa: ARG002
        said = " ".join(prediction.casefold().split())
        right = (" ".join(answer.casefold().split()) for answer in answers)
        wrong = min(_distance(said, answer) / max(len(said), len(answer), 1) for answer in right)
        return 1 - wrong if wrong < 0.5 else 0.0


def _distance(first: str, second: str) -> int:
    """Levenshtein: the fewest characters to insert, delete or replace."""
    row = list(range(len(second) + 1))
    for at, one in enumerate(first, start=1):
        above, row[0] = row[0], at
        for column, other in enumerate(second, start=1):
            best = min(row[column] + 1, row[column - 1] + 1, above + (one != other))
            above, row[column] = row[column], best
    return row[-1]


class Relaxed(ExactMatch):
    """1 where a number is within 5 % of a right one, or a text equals one after `normalise`.

    Masry et al., "ChartQA" (2022). Thousands' commas and a percent sign do not count.
    """

    name = "relaxed"

    def score(self, prediction: str, answers: Sequence[str], kl: float) -> float:
        said = _number(prediction)
        rights = [right for right in map(_number, answers) if right is not None]
        near = said is not None and any(abs(said - right) <= 0.05 * abs(right) for right in rights)
        return 1.0 if near else super().score(prediction, answers, kl)


def _number(text: str) -> float | None:
    try:
        value = float(text.strip().removesuffix("%").replace(",", ""))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


METRICS: dict[str, type[Metric]] = {kind.name: kind for kind in (ExactMatch, Choice, Fidelity, Anls, Relaxed)}


def make_metric(name: str) -> Metric:
    """The metric of this name; MetricError, with the nearest name, when there is none."""
    if name not in METRICS:
        raise MetricError(f"unknown metric {name!r}{did_you_mean(name, METRICS)}")
    return METRICS[name]()

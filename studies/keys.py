"""The key under which an evaluation is remembered: equal work has equal keys, in every study."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pruners.pruning import Pruning
from studies.records import EvaluationSettings

#: Raised when the evaluator changes what its numbers mean, so that older ones are not taken for new ones.
REVISION = 2


def key_content(
    model_fingerprint: str,
    dataset_sha256: str,
    split: str,
    metric: str,
    settings: EvaluationSettings,
    pruning: Pruning | None,
    visual_tokens: Sequence[int],
) -> dict[str, Any]:
    """Everything that decides an evaluation's numbers, as JSON has it.

    `visual_tokens` are the numbers N of visual tokens that the samples have. Schedules enter as whole numbers
    of tokens per layer for each N: rates that round alike are one evaluation. A pruning that removes nothing
    is the unpruned evaluation, and one that only ever removes all or nothing has no use for its ranker.
    """
    return {
        "evaluator": REVISION,
        "model": model_fingerprint,
        "dataset": dataset_sha256,
        "split": split,
        "metric": metric,
        "settings": asdict(settings),
        "pruning": _effect(pruning, visual_tokens),
    }


def key_of_content(content: Mapping[str, Any]) -> str:
    """The sha256 of a content as JSON with sorted names, which is the key of its evaluation."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _effect(pruning: Pruning | None, visual_tokens: Sequence[int]) -> dict[str, Any] | None:
    if pruning is None:
        return None
    tables = {size: pruning.schedule.counts(size) for size in sorted(set(visual_tokens))}
    if all(count == size for size, counts in tables.items() for count in counts):
        return None
    effect: dict[str, Any] = {
        "tokens": {str(size): list(counts) for size, counts in tables.items()},
        "position_ids": pruning.schedule.position_ids,
    }
    if any(0 < count < size for size, counts in tables.items() for count in counts):
        effect["ranker"] = pruning.ranker.model_dump(mode="json")
        effect["recovery"] = pruning.recovery.model_dump(mode="json") if pruning.recovery else None
    return effect

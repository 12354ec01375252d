"""The cost of one prefill, for a model of which only the configuration is at hand."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pruners.costs import ModelShape, prefill_cost
from pruners.profile import KeepSchedule, PruningProfile
from pruners.schedules import parse_schedule
from searchsvc.errors import ServiceError
from searchsvc.locations import model_location


def prefill(
    model: str,
    visual_tokens: int,
    text_tokens: int,
    *,
    profile: Path | None = None,
    schedule: str | None = None,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Return `Cost.to_dict()` of one prefill, under a profile, a schedule's text form, or neither."""
    if profile is not None and schedule is not None:
        raise ServiceError("--profile and --schedule: give one of them, not both")
    config = read_config(model, trust_remote_code)
    shape = ModelShape.from_config(config)
    keep = None
    if profile is not None:
        loaded = PruningProfile.load(profile)
        loaded.check_model(config)
        keep = loaded.schedule
    elif schedule is not None:
        keep = KeepSchedule(keep_rates=parse_schedule(schedule).keep_rates(shape.num_layers))
    return prefill_cost(shape, visual_tokens, text_tokens, keep).to_dict()


def counter_ratios(
    shape: ModelShape, schedule: KeepSchedule, samples: Sequence[tuple[int, int]]
) -> dict[str, float]:
    """Return whole-prefill FLOPs over those of no pruning, by counter, summed over (visual, text) samples.

    The exact counter is left out where it has no formula for the vision part, which the paper's leaves out.
    """
    known = shape.vision is not None or shape.vision_type is None
    sums = {"paper": [0.0, 0.0], **({"exact": [0.0, 0.0]} if known else {})}
    countable = shape if known else replace(shape, vision_type=None)
    for (visual, text), times in Counter(samples).items():
        for side, keep in enumerate((schedule, None)):
            counters = prefill_cost(countable, visual, text, keep).to_dict()["counters"]
            for name, pair in sums.items():
                pair[side] += times * counters[name]["flops"]
    return {name: pruned / whole for name, (pruned, whole) in sums.items()}


def read_config(model: str, trust_remote_code: bool = False, revision: str | None = None) -> Any:
    """Read the configuration alone: no weights are needed to count.

    Raises:
        ServiceError: there is none, or transformers does not know its kind.
        ModelError: it needs code that is not in its folder.
    """
    from studies.models import explained, load_config
    from studies.spec import ModelSpec

    source = ModelSpec(id=model_location(model), revision=revision, trust_remote_code=trust_remote_code)
    try:
        return load_config(source)
    except (OSError, ValueError) as error:
        raise ServiceError(
            f"{model}: no model configuration can be read there ({explained(error)}); "
            "give a hub id or a folder that holds a config.json"
        ) from error

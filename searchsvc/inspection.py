"""What pruning finds in a model, from its configuration, and from its processor where an image is given."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruners.costs import ModelShape, prefill_cost
from pruners.costs.shape import build_without_memory
from pruners.errors import UnsupportedModelError
from pruners.families import Family, describe
from pruners.grids import token_places
from pruners.masks import mask_form
from searchsvc.costing import read_config
from searchsvc.locations import model_location
from searchsvc.trial_prompts import trial_sample

#: Text tokens of the prefill that is counted where no prompt is at hand.
TEXT_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Tokens of one image's prompt, and how they are known."""

    source: str
    images: int | None
    visual_tokens: int | None
    text_tokens: int
    #: Rows and columns of each image or tile; None where it cannot be told.
    grids: tuple[tuple[int, int], ...] | None


def inspect_model(
    model: str, image: Path | None = None, *, trust_remote_code: bool = False
) -> dict[str, Any]:
    """Return a record whose key `supported` says whether the model can be pruned; if not, `because` says why.

    No weights are read. Without an image the visual tokens are those that the configuration fixes, if any.

    Raises:
        ServiceError, ModelError, DataError: there is no such model, its processor or the image is of no use.
    """
    config = read_config(model, trust_remote_code)
    head = {"model": model, "architecture": (config.architectures or [None])[0], "type": config.model_type}
    try:
        family = describe(build_without_memory(config))
        mask_form(family.text_config._attn_implementation)
    except UnsupportedModelError as reason:
        return {**head, "supported": False, "because": str(reason)}
    if image is None:
        prompt = _by_configuration(config, family)
    else:
        prompt = _by_processor(model, trust_remote_code, family, image)
    return {
        **head,
        "supported": True,
        "decoder": _decoder(family),
        "visual": {
            "source": prompt.source,
            "images_or_tiles": prompt.images,
            "tokens": prompt.visual_tokens,
            "grids": None
            if prompt.grids is None
            else [f"{rows}x{columns}" for rows, columns in prompt.grids],
        },
        "prefill": _prefill(config, prompt),
    }


def _decoder(family: Family) -> dict[str, Any]:
    layers, first = len(family.layers), family.traits.first_prunable
    return {
        "layers": layers,
        "prunable_layers": f"{first}..{layers - 1}" if first < layers else "none",
        "hidden_size": family.text_config.hidden_size,
        "heads": family.text_config.num_attention_heads,
        "key_value_heads": getattr(family.text_config, "num_key_value_heads", None),
        "attention": family.text_config._attn_implementation,
        "visual_token_ids": list(family.traits.visual_token_ids),
    }


def _by_configuration(config: Any, family: Family) -> Prompt:
    grid = family.traits.grid
    if grid is not None:
        whole = grid[0] * grid[1]
        return Prompt(
            source="configuration", images=1, visual_tokens=whole, text_tokens=TEXT_TOKENS, grids=(grid,)
        )
    tokens: int | None = getattr(config, "image_seq_length", None)
    source = "not fixed by the configuration: give --image" if tokens is None else "configuration, per tile"
    return Prompt(source=source, images=None, visual_tokens=tokens, text_tokens=TEXT_TOKENS, grids=None)


def _by_processor(model: str, trust_remote_code: bool, family: Family, image: Path) -> Prompt:
    from pruners.calls import visual_mask
    from studies.models import load_processor
    from studies.prompts import encode_prompts
    from studies.spec import ModelSpec

    with trial_sample(image) as sample:
        source = ModelSpec(id=model_location(model), trust_remote_code=trust_remote_code)
        prompt = encode_prompts(load_processor(source), [sample])
    ids = prompt["input_ids"]
    visual = visual_mask(ids, family.traits.visual_token_ids)
    places = token_places(ids, visual, family.layout(prompt))
    number = int(visual.sum())
    numbers = sorted(set(places.image[0].tolist())) if number else []
    # the centre leaves newline tokens out
    sizes = [(2 * places.centre[0][places.image[0] == image][0] + 1).tolist() for image in numbers]
    grids = tuple((int(rows), int(columns)) for rows, columns in sizes)
    return Prompt(
        source="processor",
        images=len(grids),
        visual_tokens=number,
        text_tokens=ids.shape[1] - number,
        grids=grids,
    )


def _prefill(config: Any, prompt: Prompt) -> dict[str, Any]:
    """The cost of one unpruned prefill; where there is no formula, why."""
    if prompt.visual_tokens is None:
        return {"unknown": "the number of visual tokens depends on the image"}
    try:
        shape = ModelShape.from_config(config)
        cost = prefill_cost(shape, prompt.visual_tokens, prompt.text_tokens)
    except UnsupportedModelError as reason:
        return {"unknown": str(reason)}
    return {
        "visual_tokens": prompt.visual_tokens,
        "text_tokens": prompt.text_tokens,
        "decoder_gflops": cost.exact.decoder_flops / 1e9,
        "vision_gflops": cost.exact.vision_flops / 1e9,
        "kv_mib": cost.kv_bytes / 2**20,
        "params": cost.params,
    }

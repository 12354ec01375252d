"""What pruning must equal, written without any code of the runtime: removed tokens are there, but masked.

The forward is a plain loop over the decoder's layers with eager attention and one mask per layer. Scores
are read off the full attention matrices; the other rankers are written out in float64, token by token.

Letters: B samples, T tokens of the padded row, N visual tokens.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from pruners.pruning import Pruning
from pruners.rankers import AttentionRanker, DartRanker, DivPruneRanker, KeyNormRanker, TopvRanker

Kept = list[list[list[int]]]


@dataclass
class Run:
    """Logits (B, T, words); per layer attention (B, H, T, T), inputs of layer and MLP (B, T, D), cached keys."""

    logits: Tensor
    attention: list[Tensor] = field(default_factory=list)
    layer_inputs: list[Tensor] = field(default_factory=list)
    mlp_inputs: list[Tensor] = field(default_factory=list)
    cache: DynamicCache = field(default_factory=DynamicCache)


def embeds_of(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Embedded ids with image features in the places of the placeholders."""
    ids = inputs["input_ids"]
    embeds = model.get_input_embeddings()(ids).clone()
    if "pixel_values" in inputs:
        features = torch.cat(list(model.get_image_features(inputs["pixel_values"]).pooler_output))
        embeds[ids == model.config.image_token_id] = features.to(embeds.dtype)
    return embeds


@torch.no_grad()
def masked_run(model: Any, inputs: dict[str, Tensor], kept: Kept, renumber: int = 0) -> Run:
    """The unpruned, eager model in which layer l's tokens see only `kept[l][sample]`.

    Among the first `renumber` places, kept tokens take positions without gaps.
    """
    decoder = model.get_decoder()
    before = decoder.config._attn_implementation
    decoder.config._attn_implementation = "eager"
    run = Run(torch.empty(0))
    catch = [
        layer.self_attn.register_forward_hook(lambda _m, _a, out: run.attention.append(out[1]))
        for layer in decoder.layers
    ]
    catch += [
        layer.mlp.register_forward_pre_hook(lambda _m, args: run.mlp_inputs.append(args[0]))
        for layer in decoder.layers
    ]
    try:
        hidden = inputs["inputs_embeds"] if "inputs_embeds" in inputs else embeds_of(model, inputs)
        for layer, places in zip(decoder.layers, kept, strict=True):
            run.layer_inputs.append(hidden)
            positions = _positions(hidden, places, renumber)
            hidden = layer(
                hidden,
                attention_mask=_mask(hidden, places),
                position_ids=positions,
                position_embeddings=decoder.rotary_emb(hidden, positions),
                past_key_values=run.cache,
            )
    finally:
        decoder.config._attn_implementation = before
        for hook in catch:
            hook.remove()
    run.logits = model.lm_head(decoder.norm(hidden))
    return run


def _mask(hidden: Tensor, places: list[list[int]]) -> Tensor:
    samples, tokens = hidden.shape[:2]
    mask = torch.full((samples, 1, tokens, tokens), torch.finfo(hidden.dtype).min, dtype=hidden.dtype)
    for sample, seen in enumerate(places):
        for key in seen:
            mask[sample, 0, key:, key] = 0
    return mask


def _positions(hidden: Tensor, places: list[list[int]], renumber: int) -> Tensor:
    positions = torch.arange(hidden.shape[1]).repeat(hidden.shape[0], 1)
    for sample, seen in enumerate(places):
        positions[sample] -= seen[0]
        for number, place in enumerate(place for place in seen if place < renumber):
            positions[sample, place] = number
    return positions


@dataclass(frozen=True)
class Choice:
    """One sample's reduction: the best set, and how far the last chosen token lies above the next."""

    kept: list[int]
    gap: float
    #: by token, of all that could be chosen
    scores: dict[int, float]
    #: the smallest distance between first and second in the choices on the way to the scores
    margin: float


def choose(pruning: Pruning, run: Run, layer: int, row: "Row", before: list[int], count: int) -> Choice:
    """Which `count` of the visual tokens `before` should enter `layer`, from an unpruned run."""
    recovery = pruning.recovery.every if pruning.recovery else None
    ranked = _ranked(len(before), count, recovery)
    scores, margin = _scores(pruning, run, layer, row, before, ranked)
    order = sorted(range(len(before)), key=lambda place: (-scores[place], place))
    chosen = {before[place] for place in order[:ranked]}
    gap = margin
    if 0 < ranked < len(before):
        gap = min(gap, scores[order[ranked - 1]] - scores[order[ranked]])
    if recovery:
        pruned = [token for token in before if token not in chosen]
        candidates = pruned[recovery - 1 :: recovery]
        room = count - ranked
        # all of them, or where there is room for fewer, every so many-th
        chosen |= {candidates[math.ceil(n * len(candidates) / room) - 1] for n in range(1, room + 1)}
    return Choice(sorted(chosen), gap, dict(zip(before, scores, strict=True)), margin)


def _ranked(tokens: int, budget: int, recovery: int | None) -> int:
    if recovery is None or budget in (0, tokens):
        return budget
    return max((k for k in range(budget + 1) if k + (tokens - k) // recovery <= budget), default=0)


@dataclass(frozen=True)
class Row:
    """One sample of a padded batch: its number, its text and visual places, and the grid of its images."""

    number: int
    text: list[int]
    visual: list[int]
    grid: tuple[int, int]

    @property
    def prompt(self) -> list[int]:
        """All places, ascending."""
        return sorted(self.text + self.visual)


def rows_of(model: Any, inputs: dict[str, Tensor]) -> list[Row]:
    """The samples of a batch."""
    vision = model.config.vision_config
    side = vision.image_size // vision.patch_size
    rows = []
    for number, (ids, mask) in enumerate(zip(inputs["input_ids"], inputs["attention_mask"], strict=True)):
        real = [place for place, there in enumerate(mask.tolist()) if there]
        visual = [place for place in real if ids[place] == model.config.image_token_id]
        rows.append(Row(number, [place for place in real if place not in visual], visual, (side, side)))
    return rows


def _scores(
    pruning: Pruning, run: Run, layer: int, row: Row, before: list[int], count: int
) -> tuple[list[float], float]:
    """Of the tokens `before`, and the smallest margin of the choices in them, where `count` are needed."""
    ranker = pruning.ranker
    if isinstance(ranker, AttentionRanker):
        source = layer if ranker.score_layer == "next" else layer - 1
        return _attention_scores(ranker, run.attention[source][row.number], row, before), math.inf
    if isinstance(ranker, TopvRanker):
        source, target = run.layer_inputs[layer - 1][row.number], run.mlp_inputs[layer - 1][row.number]
        return _topv_scores(ranker, source, target, row, before), math.inf
    cosines = naive_cosines(run.layer_inputs[layer][row.number, before])
    if isinstance(ranker, DivPruneRanker):
        return naive_divprune(cosines, count)
    keys = run.cache.layers[layer - 1].keys[row.number]
    if isinstance(ranker, KeyNormRanker):
        return [-norm for norm in naive_key_norms(keys[:, before])], math.inf
    assert isinstance(ranker, DartRanker)
    text = [place for place in row.text if place > row.visual[-1]]
    cosines = naive_cosines(run.layer_inputs[layer][row.number, before + text])
    return naive_dart(ranker, cosines, naive_key_norms(keys[:, before + text]), len(before), count)


def naive_cosines(states: Tensor) -> list[list[float]]:
    """Of every two of the states (tokens, D)."""
    states = states.double()
    lengths = [float(state.dot(state)) ** 0.5 for state in states]
    products = (states @ states.T).tolist()
    size = range(len(states))
    return [[products[i][j] / (lengths[i] * lengths[j]) for j in size] for i in size]


def naive_divprune(cosines: list[list[float]], count: int) -> tuple[list[float], float]:
    """Scores that fall in the order of the first `count` choices, and how closely the closest one was won."""
    size = range(len(cosines))
    scores, margin = [-math.inf for _ in size], math.inf
    chosen: list[int] = []
    for step in range(count):
        far = {
            place: 1 - max((cosines[place][other] for other in chosen or size if other != place), default=-9)
            for place in size
            if place not in chosen
        }
        best, *others = sorted(far, key=lambda place: (-far[place], place))
        margin = min(margin, far[best] - far[others[0]]) if others else margin
        chosen.append(best)
        scores[best] = -float(step)
    return scores, margin


def naive_key_norms(keys: Tensor) -> list[float]:
    """Of keys (heads, tokens, D)."""
    heads = keys.double().tolist()
    return [sum(math.hypot(*head[place]) for head in heads) / len(heads) for place in range(keys.shape[1])]


def naive_dart(
    ranker: DartRanker, cosines: list[list[float]], norms: list[float], visual: int, count: int
) -> tuple[list[float], float]:
    """Scores of the first `visual` tokens, behind which text stands, and by how much the closest choice was won.

    `count` of them are chosen.
    """
    image, text = _longest(norms, range(visual)), _longest(norms, range(visual, len(norms)))
    own = min(ranker.visual_pivots, count)
    margin = min(_won(norms, image, own), _won(norms, text, ranker.text_pivots))
    chosen, pivots = image[:own], image[:own] + text[: ranker.text_pivots]
    for turn, pivot in enumerate(pivots):
        share = (count - own) // len(pivots) + (turn < (count - own) % len(pivots))
        alike = [-cosines[place][pivot] for place in range(visual)]
        left = _longest(alike, [place for place in range(visual) if place not in chosen])
        margin = min(margin, _won(alike, left, share))
        chosen = chosen + left[:share]
    return [-float(chosen.index(i)) if i in chosen else -math.inf for i in range(visual)], margin


def _longest(norms: list[float], places: Iterable[int]) -> list[int]:
    return sorted(places, key=lambda place: (-norms[place], place))


def _won(values: list[float], order: list[int], count: int) -> float:
    """By how much the last of the first `count` lies above the next."""
    return values[order[count - 1]] - values[order[count]] if 0 < count < len(order) else math.inf


def _attention_scores(ranker: AttentionRanker, weights: Tensor, row: Row, before: list[int]) -> list[float]:
    heads = weights.mean(0)
    last = max(row.text + before)
    after = [place for place in row.text if place > row.visual[-1]]
    queries = {"last": [last], "instruction": after or [last], "all": None}[ranker.queries]
    scores = []
    for token in before:
        # a token that was removed before has a row of its own here, but it is not in the pruned model
        voters = queries or [place for place in [*row.text, *before] if place >= token]
        scores.append(sum(heads[query, token].item() for query in voters) / len(voters))
    return scores


def _topv_scores(
    ranker: TopvRanker, source: Tensor, target: Tensor, row: Row, before: list[int]
) -> list[float]:
    per_image = row.grid[0] * row.grid[1]
    number = {place: index for index, place in enumerate(row.visual)}
    scores: dict[int, float] = {}
    for image in range(len(row.visual) // per_image):
        tokens = [place for place in before if number[place] // per_image == image]
        cells = [divmod(number[place] % per_image, row.grid[1]) for place in tokens]
        cost = naive_cost(ranker, source[tokens].double(), target[tokens].double(), cells, row.grid)
        plan = naive_plan(cost, ranker.epsilon, ranker.rho, ranker.iterations, len(before))
        scores |= dict(zip(tokens, [sum(line) for line in plan], strict=True))
    return [scores[place] for place in before]


def naive_cost(
    ranker: TopvRanker, source: Tensor, target: Tensor, cells: list[tuple[int, int]], grid: tuple[int, int]
) -> list[list[float]]:
    """C, source by target, of the tokens of one image."""
    size = range(len(cells))
    feature = [[float((source[i] - target[j]).square().sum()) for j in size] for i in size]
    highest = max((max(line) for line in feature), default=0) or 1
    centre = ((grid[0] - 1) / 2, (grid[1] - 1) / 2)
    away = [math.dist(cell, centre) for cell in cells]
    farthest = max(away, default=0) or 1
    space = [
        [1 - math.exp(-(math.dist(cells[i], cells[j]) ** 2) / (2 * ranker.sigma**2)) for j in size]
        for i in size
    ]
    return [
        [
            ranker.alpha * feature[i][j] / highest
            + ranker.beta * space[i][j]
            + ranker.gamma * away[i] / farthest
            for j in size
        ]
        for i in size
    ]


def naive_plan(
    cost: list[list[float]], epsilon: float, rho: float, iterations: int, tokens: int
) -> list[list[float]]:
    """Unbalanced Sinkhorn by plain scaling, with marginals 1 / `tokens`."""
    size = range(len(cost))
    kernel = [[math.exp(-cost[i][j] / epsilon) for j in size] for i in size]
    u, v = [1.0] * len(cost), [1.0] * len(cost)
    for _ in range(iterations):
        u = [(1 / tokens / sum(kernel[i][j] * v[j] for j in size)) ** (rho / (rho + epsilon)) for i in size]
        v = [1 / tokens / sum(kernel[i][j] * u[i] for i in size) for j in size]
    return [[u[i] * kernel[i][j] * v[j] for j in size] for i in size]

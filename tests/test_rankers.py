"""Rankers as functions on tensors: exact counts, ties, permutations, and what TopV's options do."""

import math
from dataclasses import replace

import pytest
import torch
from eager_oracle import naive_cosines, naive_cost, naive_dart, naive_divprune, naive_plan
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pruners.errors import ProfileError
from pruners.rankers import (
    RANKERS,
    AttentionRanker,
    DartRanker,
    DivPruneRanker,
    Instruction,
    RandomRanker,
    RankingInputs,
    TopvRanker,
    parse_ranker,
)
from pruners.rankers.base import top_k
from pruners.recovery import put_back, ranked_share

BATCHES = st.lists(st.tuples(st.integers(0, 12), st.floats(0, 1)), min_size=1, max_size=4).filter(
    lambda batch: any(n for n, _ in batch)
)


def masks(batch: list[tuple[int, float]]) -> tuple[Tensor, Tensor]:
    """Valid places (B, M), and how many to keep (B,)."""
    width = max(n for n, _ in batch)
    valid = torch.arange(width) < torch.tensor([[n] for n, _ in batch])
    return valid, torch.tensor([math.floor(share * n) for n, share in batch])


def ranking_inputs(valid: Tensor, **given_fields) -> RankingInputs:
    tokens = (valid.long().cumsum(1) - 1).clamp(min=0)
    counts = tuple(valid.sum(1).tolist())
    prompts = tuple(torch.arange(5 + number) for number in range(len(counts)))
    return RankingInputs(valid=valid, tokens=tokens, visual_tokens=counts, prompts=prompts, **given_fields)


def feature_inputs(valid: Tensor, width: int = 8, seed: int = 0, side: int | None = None) -> RankingInputs:
    """Random features on one grid of `side` columns per sample."""
    generator = torch.Generator().manual_seed(seed)
    samples, places = valid.shape
    side = side or max(1, math.isqrt(places))
    cells = torch.stack([torch.arange(places) // side, torch.arange(places) % side], -1).float()
    centre = torch.tensor([(places // side - 1) / 2, (side - 1) / 2])
    return ranking_inputs(
        valid,
        sources=torch.randn(samples, places, width, generator=generator),
        targets=torch.randn(samples, places, width, generator=generator),
        grid=cells.expand(samples, -1, -1),
        centre=centre.expand(samples, places, -1),
        image=torch.zeros(samples, places, dtype=torch.int64),
        states=torch.randn(samples, places, width, generator=generator),
        key_norms=torch.rand(samples, places, generator=generator),
        instruction=Instruction(
            # the third sample has no text behind its image
            valid=torch.arange(5) < torch.tensor([[5], [3], [0], [2]])[:samples],
            states=torch.randn(samples, 5, width, generator=generator),
            key_norms=torch.rand(samples, 5, generator=generator),
        ),
        attention=torch.rand(samples, places, generator=generator),
    )


def tiled_inputs(images: list[list[tuple[int, int]]]) -> RankingInputs:
    """Random features on several grids (rows, columns) per sample; every third token was removed before."""
    samples = []
    for grids in images:
        cells = [
            (number, row, column, (rows - 1) / 2, (columns - 1) / 2)
            for number, (rows, columns) in enumerate(grids)
            for row in range(rows)
            for column in range(columns)
        ]
        samples.append(torch.tensor([cell for token, cell in enumerate(cells) if token % 3 != 2]))
    places = pad_sequence(samples, batch_first=True)
    valid = torch.arange(places.shape[1]) < torch.tensor([[len(cells)] for cells in samples])
    inputs = feature_inputs(valid)
    total = tuple(sum(rows * columns for rows, columns in grids) for grids in images)
    image, grid, centre = places[:, :, 0].long(), places[:, :, 1:3], places[:, :, 3:]
    return replace(inputs, visual_tokens=total, image=image, grid=grid, centre=centre)


@given(BATCHES, st.sampled_from(sorted(RANKERS)), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_every_ranker_keeps_exactly_as_many_as_asked(batch, name: str, seed: int) -> None:
    valid, counts = masks(batch)
    ranker = RANKERS[name]()
    inputs = feature_inputs(valid, seed=seed)
    kept = ranker.keep(inputs, counts)
    assert torch.equal(kept.sum(1), counts)
    assert not (kept & ~valid).any()


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, -math.inf]), min_size=1, max_size=10), st.integers(0, 10))
def test_of_equal_scores_the_lower_index_wins(scores: list[float], count: int) -> None:
    count = min(count, len(scores))
    # a padding place in front and one behind, with the best score of all
    padded = torch.tensor([[9.0, *scores, 9.0]])
    valid = torch.tensor([[False, *[True] * len(scores), False]])
    kept = top_k(padded, valid, torch.tensor([count]))[0, 1:-1]
    expected = sorted(range(len(scores)), key=lambda place: (-scores[place], place))[:count]
    assert kept.nonzero()[:, 0].tolist() == sorted(expected)


@given(st.permutations(range(7)), st.integers(0, 7))
def test_top_k_follows_a_permutation_of_its_scores(order: list[int], count: int) -> None:
    scores = torch.tensor([[0.3, 0.1, 0.9, 0.4, 0.2, 0.8, 0.7]])
    valid, counts = torch.ones_like(scores, dtype=torch.bool), torch.tensor([count])
    kept = top_k(scores, valid, counts)
    assert torch.equal(top_k(scores[:, order], valid, counts), kept[:, order])


def test_uniform_keeps_a_stride_in_the_middle_of_its_steps() -> None:
    valid = torch.ones(1, 16, dtype=torch.bool)
    kept = RANKERS["uniform"]().keep(ranking_inputs(valid), torch.tensor([4]))
    assert kept[0].nonzero()[:, 0].tolist() == [2, 6, 10, 14]


class TestQueries:
    """Who votes: * text, # image, . padding, a teacher-forced answer."""

    @pytest.mark.parametrize(
        ("row", "queries", "voters"),
        [
            (".*##*##***", "last", [9]),
            (".*##*##***", "instruction", [7, 8, 9]),
            (".*##*##***", "all", [1, 2, 3, 4, 5, 6, 7, 8, 9]),
            ("*##**aa..", "last", [4]),
            ("*##**aa..", "instruction", [3, 4]),
            ("*##**aa..", "all", [0, 1, 2, 3, 4]),
            ("**##", "instruction", [3]),
            ("..****", "instruction", []),
            ("..****", "all", []),
        ],
    )
    def test_voters(self, row: str, queries: str, voters: list[int]) -> None:
        prompt = torch.tensor([[letter in "*#" for letter in row]])
        visual = torch.tensor([[letter == "#" for letter in row]])
        votes = AttentionRanker(queries=queries).query_rows(prompt, visual)
        assert votes[0].nonzero()[:, 0].tolist() == voters


class TestRandom:
    def test_depends_on_seed_and_prompt_alone(self) -> None:
        one = ranking_inputs(torch.ones(1, 9, dtype=torch.bool))
        valid = torch.ones(3, 12, dtype=torch.bool)
        valid[0, 9:] = False
        first, batch = RandomRanker(seed=1).score(one), RandomRanker(seed=1).score(ranking_inputs(valid))
        assert torch.equal(first[0], batch[0, :9])
        assert not torch.equal(batch[1], batch[2])
        assert not torch.equal(RandomRanker(seed=2).score(one), first)

    def test_a_later_reduction_chooses_by_the_same_permutation(self) -> None:
        whole = ranking_inputs(torch.ones(1, 9, dtype=torch.bool))
        scores = RandomRanker().score(whole)
        left = torch.tensor([[1, 4, 5, 8]])
        fewer = RankingInputs(
            valid=left > 0, tokens=left, visual_tokens=whole.visual_tokens, prompts=whole.prompts
        )
        assert torch.equal(RandomRanker().score(fewer), scores.gather(1, left))


def padded(batch: list[int], seed: int = 0) -> tuple[RankingInputs, Tensor]:
    """A batch of samples with that many tokens, and half of them, rounded up."""
    valid = torch.arange(max(batch)) < torch.tensor(batch)[:, None]
    return feature_inputs(valid, seed=seed), (torch.tensor(batch) + 1) // 2


def picked(inputs: RankingInputs, places: Tensor) -> RankingInputs:
    """The first sample's tokens at these places, as a batch of its own."""
    tensors = (
        "valid",
        "tokens",
        "sources",
        "targets",
        "grid",
        "centre",
        "image",
        "states",
        "key_norms",
        "attention",
    )
    fields = {name: getattr(inputs, name)[:1, places] for name in tensors}
    text = inputs.instruction
    fields["instruction"] = Instruction(
        valid=text.valid[:1], states=text.states[:1], key_norms=text.key_norms[:1]
    )
    return replace(inputs, visual_tokens=inputs.visual_tokens[:1], prompts=inputs.prompts[:1], **fields)


@pytest.mark.parametrize("name", sorted(RANKERS))
@pytest.mark.parametrize("batch", [[9, 12], [12, 0, 5], [1, 7]])
def test_a_sample_keeps_the_same_tokens_in_any_batch(name: str, batch: list[int]) -> None:
    """Whatever stands in the places of padding."""
    ranker = RANKERS[name]()
    inputs, counts = padded(batch)
    floats = ("sources", "targets", "states", "key_norms", "attention")
    for value in (getattr(inputs, field) for field in floats):
        value[~inputs.valid] = math.nan
    for value in (inputs.instruction.states, inputs.instruction.key_norms):
        value[~inputs.instruction.valid] = math.nan
    kept = ranker.keep(inputs, counts)
    alone = ranker.keep(picked(inputs, torch.arange(batch[0])), counts[:1])
    assert kept[0, : batch[0]].tolist() == alone[0].tolist()
    assert torch.equal(kept.sum(1), counts)


@pytest.mark.parametrize("name", ["attention", "topv", "divprune", "knorm", "dart"])
def test_the_order_of_tokens_only_breaks_ties(name: str) -> None:
    inputs, counts = padded([11])
    order = torch.randperm(11, generator=torch.Generator().manual_seed(3))
    ranker = RANKERS[name]()
    kept, turned = ranker.keep(inputs, counts), ranker.keep(picked(inputs, order), counts)
    assert torch.equal(kept[:, order], turned)


class TestDivPrune:
    @given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(0, 2**31))
    @settings(max_examples=40, deadline=None)
    def test_score_is_the_whole_order_of_which_keep_takes_the_first(
        self, batch: list[int], seed: int
    ) -> None:
        inputs, counts = padded(batch, seed)
        scores = DivPruneRanker().score(inputs)
        assert torch.equal(top_k(scores, inputs.valid, counts), DivPruneRanker().keep(inputs, counts))
        for sample, tokens in enumerate(batch):
            naive, margin = naive_divprune(naive_cosines(inputs.states[sample, :tokens]), tokens)
            assert margin < 1e-5 or scores[sample, :tokens].tolist() == naive

    def test_of_duplicates_the_lower_index_is_chosen(self) -> None:
        """Every direction twice, at another length: one of each pair, then the others by their index."""
        directions = torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
        states = torch.cat([directions, 2.7 * directions])[None]
        scores = DivPruneRanker().score(ranking_inputs(torch.ones(1, 80, dtype=torch.bool), states=states))
        order = (-scores[0]).long()
        pairs = torch.stack([order[:40], order[40:]]).sort(0).values
        assert pairs[0].sort().values.tolist() == list(range(40))
        left = order.argsort()[40:].tolist()
        assert left == sorted(left)


class TestDart:
    def test_pivots_have_the_longest_keys_and_the_lower_index(self) -> None:
        inputs, _ = padded([6])
        inputs = replace(inputs, key_norms=torch.tensor([[1.0, 3.0, 2.0, 3.0, 3.0, 0.5]]))
        for count, kept in ((0, []), (1, [1]), (2, [1, 3]), (3, [1, 3, 4]), (4, [1, 2, 3, 4])):
            found = DartRanker().keep(inputs, torch.tensor([count]))
            assert found[0].nonzero()[:, 0].tolist() == kept

    @pytest.mark.parametrize("text", [0, 1, 3])
    @pytest.mark.parametrize("visual", [1, 3, 20])
    @pytest.mark.parametrize("counts", [(12, 7), (9, 4), (5, 0)])
    def test_every_pivot_keeps_its_share(self, visual: int, text: int, counts: tuple[int, int]) -> None:
        inputs, _ = padded([12, 7])
        ranker = DartRanker(visual_pivots=visual, text_pivots=text)
        kept = ranker.keep(inputs, torch.tensor(counts))
        for sample, (tokens, count) in enumerate(zip((12, 7), counts, strict=True)):
            behind = inputs.instruction.valid[sample]
            states = torch.cat([inputs.states[sample, :tokens], inputs.instruction.states[sample, behind]])
            norms = inputs.key_norms[sample, :tokens].tolist()
            norms += inputs.instruction.key_norms[sample, behind].tolist()
            naive, _ = naive_dart(ranker, naive_cosines(states), norms, tokens, count)
            assert kept[sample, :tokens].tolist() == [score > -math.inf for score in naive]
            if count == tokens:
                assert ranker.score(inputs)[sample, :tokens].tolist() == naive

    def test_text_pivots_change_what_is_kept(self) -> None:
        inputs, counts = padded([40])
        found = [DartRanker(text_pivots=text).keep(inputs, counts) for text in (0, 4)]
        assert not torch.equal(*found)


class TestTopv:
    """The cost and the transport, against plain scaling in float64 and closed forms."""

    @pytest.mark.parametrize(
        "options",
        ["", "rho=0", "rho=5,iterations=20", "sigma=0.5,gamma=0", "alpha=0,beta=1", "epsilon=0.004"],
    )
    def test_importance_equals_naive_sinkhorn(self, options: str) -> None:
        ranker = parse_ranker(f"topv:{options}" if options else "topv")
        assert isinstance(ranker, TopvRanker)
        valid = torch.arange(12) < torch.tensor([[12], [7]])
        inputs = feature_inputs(valid, side=4)
        scores = ranker.score(inputs)
        for sample, tokens in enumerate((12, 7)):
            cells = [divmod(place, 4) for place in range(tokens)]
            source, target = (
                inputs.sources[sample, :tokens].double(),
                inputs.targets[sample, :tokens].double(),
            )
            cost = naive_cost(ranker, source, target, cells, (3, 4))
            plan = naive_plan(cost, ranker.epsilon, ranker.rho, ranker.iterations, tokens)
            naive = torch.tensor([sum(line) for line in plan], dtype=torch.float64)
            torch.testing.assert_close(scores[sample, :tokens].double(), naive, rtol=1e-4, atol=1e-7)

    @pytest.mark.parametrize("options", ["", "rho=0", "epsilon=0.01,iterations=6"])
    def test_tiles_and_frames_of_any_shape_that_lost_tokens_before(self, options: str) -> None:
        """Rectangular images side by side, of which every third token is gone; more images than tokens of one."""
        ranker = parse_ranker(f"topv:{options}" if options else "topv")
        assert isinstance(ranker, TopvRanker)
        images = [[(2, 3), (3, 5), (2, 3)], [(1, 2)] * 5]
        inputs = tiled_inputs(images)
        scores = ranker.score(inputs)
        for sample, grids in enumerate(images):
            for number, grid in enumerate(grids):
                there = inputs.valid[sample] & (inputs.image[sample] == number)
                source, target = (
                    inputs.sources[sample, there].double(),
                    inputs.targets[sample, there].double(),
                )
                cells = [tuple(cell) for cell in inputs.grid[sample, there].long().tolist()]
                cost = naive_cost(ranker, source, target, cells, grid)
                plan = naive_plan(
                    cost, ranker.epsilon, ranker.rho, ranker.iterations, int(inputs.valid[sample].sum())
                )
                naive = torch.tensor([sum(line) for line in plan], dtype=torch.float64)
                torch.testing.assert_close(scores[sample, there].double(), naive, rtol=1e-4, atol=1e-7)

    def test_rho_0_is_a_softmax_per_column(self) -> None:
        ranker = TopvRanker(rho=0.0)
        inputs = feature_inputs(torch.ones(1, 16, dtype=torch.bool))
        cost = ranker.cost(inputs, torch.ones(1, 16, 16, dtype=torch.bool))
        closed = (-cost / ranker.epsilon).softmax(1).sum(2) / 16
        torch.testing.assert_close(ranker.score(inputs), closed)

    def test_importance_is_not_constant_unless_transport_is_balanced(self) -> None:
        inputs = feature_inputs(torch.ones(1, 16, dtype=torch.bool))
        spread = TopvRanker().score(inputs).std()
        balanced = TopvRanker(rho=1e6, iterations=200).score(inputs)
        assert spread > 1e-3
        torch.testing.assert_close(balanced, torch.full_like(balanced, 1 / 16), rtol=1e-3, atol=0)

    def test_gamma_moves_importance_from_the_corners_to_the_centre(self) -> None:
        inputs = feature_inputs(torch.ones(1, 36, dtype=torch.bool))
        away = (inputs.grid - inputs.centre).norm(dim=-1)[0]
        share = []
        for gamma in (0.0, 0.25, 0.5, 1.0):
            scores = TopvRanker(gamma=gamma).score(inputs)[0]
            share.append(float(scores[away < 2].sum() - scores[away > 3].sum()))
        assert share == sorted(share)
        assert share[-1] > share[0] + 0.1

    def test_sigma_changes_the_kept_set(self) -> None:
        inputs = feature_inputs(torch.ones(1, 36, dtype=torch.bool))
        counts = torch.tensor([12])
        narrow, wide = (TopvRanker(sigma=s, beta=2.0) for s in (0.5, 6.0))
        kept = [ranker.keep(inputs, counts) for ranker in (narrow, wide)]
        assert not torch.equal(*kept)

    def test_images_are_transported_apart(self) -> None:
        """Two images in one sample score as each does alone, but for the marginal's 1 / N."""
        valid = torch.ones(1, 16, dtype=torch.bool)
        pair = feature_inputs(valid, side=4)
        halves = [slice(0, 8), slice(8, 16)]
        image = torch.arange(16)[None] // 8
        fields = {"sources": pair.sources, "targets": pair.targets, "grid": pair.grid, "centre": pair.centre}
        together = TopvRanker().score(ranking_inputs(valid, image=image, **fields))
        for half in halves:
            part = {name: value[:, half] for name, value in fields.items()}
            alone = TopvRanker().score(ranking_inputs(valid[:, half], image=image[:, half], **part))
            torch.testing.assert_close(together[:, half], alone / 2)


class TestRecovery:
    @given(st.integers(0, 40), st.floats(0, 1), st.integers(2, 9), st.integers(0, 2**31))
    @settings(deadline=None)
    def test_recovered_tokens_fill_the_budget_and_no_more(
        self, tokens: int, share: float, every: int, seed: int
    ) -> None:
        budget = math.floor(share * tokens)
        ranked = ranked_share(tokens, budget, every)
        scores = torch.rand(1, tokens + 2, generator=torch.Generator().manual_seed(seed))
        valid = (torch.arange(tokens + 2) < tokens)[None]
        chosen = top_k(scores, valid, torch.tensor([ranked]))
        kept = put_back(chosen, valid, torch.tensor([budget]), every)
        assert int(kept.sum()) == budget
        assert not (chosen & ~kept).any()
        if budget >= tokens // every:
            pruned = (valid & ~chosen)[0].nonzero()[:, 0].tolist()
            assert (kept & ~chosen)[0].nonzero()[:, 0].tolist() == (
                pruned[every - 1 :: every] if budget < tokens else []
            )


class TestSpecs:
    @pytest.mark.parametrize(
        "spec",
        [
            "attention",
            "attention:queries=last,score_layer=next",
            "topv:sigma=2.0",
            "random:seed=3",
            "divprune",
            "knorm",
            "dart",
            "dart:visual_pivots=2,text_pivots=0",
        ],
    )
    def test_round_trip(self, spec: str) -> None:
        assert parse_ranker(spec).spec() == spec

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("attentoin", "ranker 'attentoin' is not known; did you mean 'attention'?"),
            ("topv:sgima=1", "no option 'sgima'; did you mean 'sigma'?"),
            ("topv:sigma=0", "option 'sigma': Input should be greater than 0"),
            ("topv:alpha=0,beta=0,gamma=0", "alpha, beta and gamma must not all be 0"),
            ("attention:queries=first", "option 'queries': Input should be 'last', 'instruction' or 'all'"),
            ("divprun", "ranker 'divprun' is not known; did you mean 'divprune'?"),
            ("dart:visual_pivots=0", "option 'visual_pivots': Input should be greater than or equal to 1"),
            ("random:7", "'7' must be written option=value"),
            ("random:type=topv", "no option 'type'"),
        ],
    )
    def test_wrong_specs_name_the_rule(self, spec: str, message: str) -> None:
        with pytest.raises(ProfileError, match=message.replace("?", r"\?")):
            parse_ranker(spec)

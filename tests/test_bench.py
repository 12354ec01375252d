"""The benches: that they run to their end, and that what they measure against is a fair opponent."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import bench.comparison  # noqa: E402
from bench.comparison import compare  # noqa: E402
from bench.engines import ENGINES, EngineName, make_engine  # noqa: E402
from bench.executed import Executed, layer_flops  # noqa: E402
from bench.floor import floor  # noqa: E402
from bench.measurement import EAGER  # noqa: E402
from bench.models import CPU, PUBLISHED, Tower, random_inputs, random_model  # noqa: E402
from bench.published import output_attentions  # noqa: E402
from bench.schedules import prunings  # noqa: E402
from bench.settings import Setting, random_setting  # noqa: E402
from pruners import Pruning, pruned  # noqa: E402
from pruners.costs import decoder_ratio, prefill_cost  # noqa: E402
from pruners.costs.shape import ModelShape  # noqa: E402
from pruners.rankers import AttentionRanker  # noqa: E402
from studies.prompts import encode_prompts  # noqa: E402
from studies.records import EvaluationSettings, SampleRecord  # noqa: E402
from studies.searches.base import full_until, with_rates  # noqa: E402
from studies.searches.g_search import GSearchOptions  # noqa: E402

LAYERS = 6


def ran(*words: str) -> str:
    """What a bench prints."""
    done = subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, cwd=ROOT, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def model() -> Any:
    """Sharp attention, so that which tokens are kept matters."""
    made = random_model(CPU.smaller(LAYERS, 128, 6), "cpu", torch.float32)
    with torch.no_grad():
        for layer in made.get_decoder().layers:
            layer.self_attn.q_proj.weight *= 8
    return made


@pytest.mark.parametrize("eager", EAGER)
@pytest.mark.parametrize("name", ["FastV 50 %", "PyramidDrop", "G-Search-like"])
def test_the_opponent_keeps_the_same_tokens(model: Any, name: str, eager: Any) -> None:
    shape = CPU.smaller(LAYERS, 128, 6)
    cut, inputs = prunings(LAYERS)[name], random_inputs(model, shape, 2)
    # PyramidDrop's own choices that the opponent does not copy: they cost the same
    ranker = cut.ranker.model_copy(update={"score_layer": "previous"})
    cut = cut.model_copy(
        update={"ranker": ranker, "schedule": cut.schedule.model_copy(update={"position_ids": "keep"})}
    )
    counts, rows = cut.schedule.counts(shape.visual_tokens), 1 if ranker.queries == "last" else shape.text[1]
    token = torch.full((2, 1), 7)
    with torch.no_grad():
        with pruned(model, cut):
            ours = model(**inputs)
            our_next = model(input_ids=token, past_key_values=ours.past_key_values).logits
        with output_attentions(model, counts, shape.text[0], rows, eager):
            theirs = model(**inputs)
            their_next = model(input_ids=token, past_key_values=theirs.past_key_values).logits
        assert model.config.get_text_config()._attn_implementation == "sdpa"
    torch.testing.assert_close(theirs.logits, ours.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(their_next, our_next, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_prefill_bench_runs_to_its_end() -> None:
    shown = ran(
        "bench.prefill",
        "--layers",
        "6",
        "--width",
        "64",
        "--side",
        "4",
        "--rounds",
        "2",
        "--batch",
        "1",
        "2",
        "--eager",
        "1",
    )
    found = json.loads(shown.splitlines()[-1])
    assert [(row["schedule"], row["batch"]) for row in found["rows"]] == [
        (name, size) for size in (1, 2) for name in prunings(6)
    ]
    for row in found["rows"]:
        assert 0 < row["overhead"]["ranking"] < row["overhead"]["hooks"] < 1
        assert row["of_promise"]["estimate"] == pytest.approx(
            row["flops_ratio"] / row["prefill_ratio"]["estimate"]
        )
        assert bool(row["faster_than_eager"]) == (row["batch"] == 1 and "TopV" not in row["schedule"])
    assert found["rows"][0]["schedule"] in shown


@pytest.mark.slow
def test_gpu_bench_runs_to_its_end_on_any_machine(tmp_path: Path) -> None:
    ran("bench.gpu", "--tiny", "--rounds", "1", "--batch", "1", "--model", *PUBLISHED, "--out", str(tmp_path))
    (file,) = tmp_path.iterdir()
    found = json.loads(file.read_text())
    assert found["tiny"]
    assert [result["model"] for result in found["results"]] == list(PUBLISHED)
    assert all(len(result["rows"]) == len(prunings(6)) for result in found["results"])


@pytest.mark.slow
def test_search_bench_finds_the_same_by_plain_and_by_replay() -> None:
    words = ("--samples", "4", "--trials", "3", "--layer-trials", "3", "--reference-samples", "1")
    shown = ran("bench.search", *words, "--sampler", "random")
    found = json.loads(shown.splitlines()[-1])
    rows = {(row["search"], row["engine"]): row for row in found["rows"]}
    assert set(rows) == {(search, engine) for search in ("g-search", "p-sigmoid") for engine in ENGINES}
    for search in ("g-search", "p-sigmoid"):
        reference, plain, replay = (rows[search, engine] for engine in ENGINES)
        assert plain["evaluations"] == replay["evaluations"] == reference["evaluations"] > 3
        assert (reference["timed_on"], plain["timed_on"], replay["timed_on"]) == (1, 4, 4)
        # the floor has no padding and no generated tokens; replay repeats a layer here and there
        assert 0.5 * replay["flops"] < found["floor_flops"][search] < replay["flops"] < plain["flops"]
        # one prompt stands for all, without padding
        assert reference["flops"] == pytest.approx(plain["flops"], rel=0.1)
        assert reference["same_scores"] > 0.9
    for total in found["totals"]:
        own = [row for row in found["rows"] if row["engine"] == total["engine"]]
        for name in ("evaluations", "seconds", "whole_seconds", "flops"):
            assert total[name] == pytest.approx(sum(row[name] for row in own))
    assert "plain leads a search" in " ".join(shown.split())
    assert "whole bench: replay is" in shown


@pytest.mark.slow
def test_screening_bench_tries_what_its_first_stage_found() -> None:
    words = ("--samples", "32", "--screened", "16", "--many", "10", "--few", "8", "--seeds", "0")
    many, few, screened = json.loads(ran("bench.screening", *words).splitlines()[-1])["rows"]
    assert (many["samples"], few["samples"]) == (11 * 32, 9 * 32)
    assert screened["samples"] == few["samples"] + 11 * 16
    assert screened["hypervolume"] != few["hypervolume"]


def test_stopping_bench_runs_both_ways() -> None:
    words = ("--samples", "32", "--trials", "8", "--seeds", "0")
    (row,) = json.loads(ran("bench.stopping", *words).splitlines()[-1])["rows"]
    assert row["samples"] == 9 * 32 >= row["samples_early"] > 0
    assert 0 < row["hypervolume"] <= 1


def test_search_bench_on_a_random_model_times_plain_on_some_samples() -> None:
    sizes = ("--layers", "6", "--width", "64", "--side", "4", "--vision-layers", "2", "--vision-width", "64")
    words = ("--samples", "6", "--batch-size", "2", "--plain-samples", "3", "--layer-trials", "3")
    shown = ran("bench.search", "--model", "random", *sizes, *words, "--engines", "plain", "replay")
    found = json.loads(shown.splitlines()[-1])
    rows = {row["engine"]: row for row in found["rows"]}
    assert {row["search"] for row in found["rows"]} == set(found["floor_flops"]) == {"g-search"}
    assert {name: row["timed_on"] for name, row in rows.items()} == {"plain": 4, "replay": 6}
    assert rows["plain"]["evaluations"] == rows["replay"]["evaluations"]
    assert rows["plain"]["flops"] > rows["replay"]["flops"] > found["floor_flops"]["g-search"]
    assert "plain runs what replay tried" in " ".join(shown.split())
    assert "whole bench: replay" not in shown


SHAPE, TOWER = CPU.smaller(LAYERS, 128, 6), Tower(layers=2, width=64)
CUTS = [
    with_rates(AttentionRanker(queries="instruction"), full_until(first, rate, LAYERS))
    for first, rate in ((2, 0.5), (4, 0.5), (4, 0.1), (3, 0.0))
]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """A random model on four samples of noise, in batches of two."""
    settings = EvaluationSettings(batch_size=2, max_new_tokens=3)
    return random_setting(tmp_path_factory.mktemp("noise"), 4, settings, SHAPE, TOWER)


def test_a_random_model_loses_by_pruning_and_answers_at_full_length(setting: Setting) -> None:
    engine = make_engine("replay", setting, 4)
    unpruned, *others = [engine.run(cut) for cut in (None, *CUTS)]
    for record in unpruned:
        assert len(record.prediction.split()) == 3
        assert (record.score, record.visual_tokens, record.text_tokens) == (1, 36, 64)
    for records in others:
        assert all(0.5 < record.score < 1 for record in records)
    # nothing is a copy of anything else
    assert len({record.kl for records in others for record in records}) == 4 * len(CUTS)


def test_engines_agree(setting: Setting) -> None:
    made = {name: make_engine(name, setting, 4) for name in ENGINES}
    for cut in (None, *CUTS):
        reference, plain, replay = (made[name].run(cut) for name in ENGINES)
        assert plain == replay
        assert [record.id for record in reference] == [record.id for record in replay]
        for one, other in zip(reference, replay, strict=True):
            assert one.prediction == other.prediction
            assert one.kl == pytest.approx(other.kl, rel=1e-2, abs=1e-6)


@pytest.mark.parametrize("name", ENGINES)
def test_all_engines_but_replay_run_the_whole_model_per_trial(setting: Setting, name: EngineName) -> None:
    images: Counter[str] = Counter()
    base = setting.model.base_model
    hooks = [
        module.register_forward_hook(lambda _, args, __, n=part: images.update({n: len(args[0])}))
        for part, module in (("tower", base.vision_tower), ("projector", base.multi_modal_projector))
    ]
    try:
        engine = make_engine(name, setting, 4)
        engine.run(None)
        images.clear()
        for cut in CUTS:
            engine.run(cut)
    finally:
        for hook in hooks:
            hook.remove()
    seen = 0 if name == "replay" else 4 * len(CUTS)
    assert (images["tower"], images["projector"]) == (seen, seen)


def test_batched_engines_run_whole_batches(setting: Setting) -> None:
    engine = make_engine("plain", setting, 1)
    assert list(engine.indices) == [0, 1]
    whole = make_engine("plain", setting, 4)
    assert engine.run(None) == whole.run(None)[:2]
    assert engine.run(CUTS[0]) == whole.run(CUTS[0])[:2]


class Careless:
    """Plain, but for one record of one pruning."""

    def __init__(self, name: EngineName, setting: Setting, count: int) -> None:
        self._engine, self._name = make_engine(name, setting, count), name
        self.indices: Sequence[int] = self._engine.indices

    def run(self, pruning: Pruning | None) -> list[SampleRecord]:
        first, *others = self._engine.run(pruning)
        wrong = self._name == "plain" and pruning is not None
        return [replace(first, kl=first.kl + 1e-9) if wrong else first, *others]


@pytest.mark.parametrize("count", [2, 4])
def test_a_record_that_differs_stops_the_bench(
    setting: Setting, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = GSearchOptions(trials=2, sampler="random", stride=3)
    counts: dict[EngineName, int] = {"plain": count, "replay": 4}
    rows, _ = compare(setting, options, ["plain", "replay"], counts)
    assert [(row.engine, row.timed_on) for row in rows] == [("plain", count), ("replay", 4)]
    monkeypatch.setattr(bench.comparison, "make_engine", Careless)
    with pytest.raises(RuntimeError, match="plain and replay disagree about evaluation"):
        compare(setting, options, ["plain", "replay"], counts)


def test_the_floor_counts_what_is_asked_once(setting: Setting) -> None:
    shape = setting.shape
    assert shape.vision is not None

    def layers(visual: int, number: int) -> int:
        return number * layer_flops(shape, visual + 64, visual + 64)

    cuts = [None, CUTS[0], CUTS[1], CUTS[2], CUTS[0]]
    # 36 tokens in six layers, and where they are fewer: 18 from layer 2 and 18 from layer 4 on, 4 from there
    once = layers(36, 6) + layers(18, 4) + layers(18, 2) + layers(4, 2)
    assert floor(shape, cuts, [(36, 64)] * 3, 3) == 3 * (once + shape.vision.flops_per_image)


def test_executed_flops_are_those_of_the_cost_model(setting: Setting) -> None:
    model, cut = setting.model, prunings(LAYERS)["FastV 50 %"]
    inputs = encode_prompts(setting.processor, setting.samples[:2])
    executed = Executed(model)
    with executed.counting(), pruned(model, cut), torch.no_grad():
        model(**inputs)
    cost = prefill_cost(setting.shape, SHAPE.visual_tokens, SHAPE.text_tokens, cut.schedule)
    assert setting.shape.vision is not None
    assert executed.flops == 2 * (cost.exact.decoder_flops + setting.shape.vision.flops_per_image)


def test_the_curves_are_those_of_their_names() -> None:
    cuts = prunings(24)
    assert cuts["FastV 50 %"].schedule.keep_rates == (1.0,) * 2 + (0.5,) * 22
    falling = cuts["G-Search-like"].schedule.keep_rates
    assert len(set(falling[2:])) == 8  # layers 2, 5, ... 23
    shape = ModelShape.from_config(random_model(CPU.smaller(24, 64, 2), "cpu", torch.float32).config)
    assert decoder_ratio(shape, falling, [(576, 64)]) < 0.6
    assert prefill_cost(shape, 576, 64, cuts["PyramidDrop"].schedule).vision_token_ratio == pytest.approx(
        0.469, abs=1e-3
    )

"""The benches: that they run to their end, and that what they measure against is a fair opponent."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench.engines import ENGINES, Executed  # noqa: E402
from bench.measurement import EAGER  # noqa: E402
from bench.models import CPU, PUBLISHED, random_inputs, random_model  # noqa: E402
from bench.published import output_attentions  # noqa: E402
from bench.schedules import prunings  # noqa: E402
from pruners import pruned  # noqa: E402
from pruners.costs import decoder_ratio, prefill_cost  # noqa: E402
from pruners.costs.shape import ModelShape  # noqa: E402

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
    found = json.loads(ran("bench.search", *words, "--sampler", "random").splitlines()[-1])
    rows = {(row["search"], row["engine"]): row for row in found["rows"]}
    assert set(rows) == {(search, engine) for search in ("g-search", "p-sigmoid") for engine in ENGINES}
    for search in ("g-search", "p-sigmoid"):
        plain, replay = rows[search, "plain"], rows[search, "replay"]
        assert plain["evaluations"] == replay["evaluations"] == rows[search, "reference"]["evaluations"] > 3
        # the floor has no padding and no generated tokens; replay repeats a layer here and there
        assert 0.5 * replay["flops"] < found["floor_flops"][search] < replay["flops"] < plain["flops"]


def test_executed_flops_are_those_of_the_cost_model(model: Any) -> None:
    shape = CPU.smaller(LAYERS, 128, 6)
    cut, counted = prunings(LAYERS)["FastV 50 %"], ModelShape.from_config(model.config)
    executed = Executed(model)
    with executed.counting(), pruned(model, cut), torch.no_grad():
        model(**random_inputs(model, shape, 2))
    cost = prefill_cost(counted, shape.visual_tokens, shape.text_tokens, cut.schedule)
    assert executed.flops == 2 * cost.exact.decoder_flops


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

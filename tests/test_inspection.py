"""`searchsvc model inspect` and `searchsvc profile bench`: what they say about a model."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_errors import PROFILE
from tiny_vlm import VISUAL_TOKENS, write_images
from transformers import LlamaConfig

from searchsvc.cli.app import run
from searchsvc.inspection import inspect_model


def shown(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> dict[str, Any]:
    """What a command prints as JSON."""
    assert run([*words, "--output", "json"]) == status
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


class TestInspect:
    def test_by_the_configuration_alone(
        self, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Neither weights nor processor are needed."""
        (tmp_path / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
        found = shown(capsys, "model", "inspect", str(tmp_path))
        assert found["supported"] is True
        assert found["architecture"] == "LlavaForConditionalGeneration"
        assert found["decoder"]["layers"] == 8
        assert found["decoder"]["prunable_layers"] == "2..7"
        assert found["decoder"]["attention"] == "sdpa"
        assert found["visual"] == {
            "source": "configuration", "images_or_tiles": 1, "tokens": VISUAL_TOKENS, "grids": ["4x4"],
        }  # fmt: skip

    def test_cost_is_that_of_the_cost_command(
        self, tiny_model: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        found = shown(capsys, "model", "inspect", str(tiny_model))["prefill"]
        tokens = "--visual-tokens", str(found["visual_tokens"]), "--text-tokens", str(found["text_tokens"])
        cost = shown(capsys, "cost", str(tiny_model), *tokens)
        assert found["decoder_gflops"] * 1e9 == pytest.approx(cost["counters"]["exact"]["decoder_flops"])
        assert found["kv_mib"] * 2**20 == cost["kv_bytes"]

    def test_by_the_processor(
        self, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        image = str(write_images(tmp_path, 1)[0])
        found = shown(capsys, "model", "inspect", str(tiny_model), "--image", image)
        assert found["visual"] == {
            "source": "processor", "images_or_tiles": 1, "tokens": VISUAL_TOKENS, "grids": ["4x4"],
        }  # fmt: skip
        assert found["prefill"]["text_tokens"] > 1

    def test_a_model_that_cannot_be_pruned(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The record says why, and the exit status tells scripts."""
        LlamaConfig(
            num_hidden_layers=2, hidden_size=32, num_attention_heads=2, intermediate_size=32
        ).save_pretrained(tmp_path)
        found = shown(capsys, "model", "inspect", str(tmp_path), status=2)
        assert found["supported"] is False
        assert "no image_token_id" in found["because"]

    def test_the_embedded_model(self) -> None:
        found = inspect_model("demo")
        assert (found["visual"]["tokens"], found["decoder"]["layers"]) == (144, 12)


def test_bench_of_a_profile(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = tmp_path / "profile.yaml"
    profile.write_text(PROFILE.format(model=tiny_model))
    found = shown(capsys, "profile", "bench", str(profile), "--rounds", "6", "--batch-size", "2")
    assert found["image"] == "synthetic, 640 x 480"
    assert found["visual_tokens"] == VISUAL_TOKENS
    assert 0 < found["flops"]["decoder_ratio"] < 1
    speed = found["speed"]
    assert (speed["batch_size"], speed["rounds"]) == (2, 6)
    for what in ("prefill", "decode"):
        low, high = speed[f"{what}_interval_95"]
        assert low <= speed[f"{what}_ratio"] <= high

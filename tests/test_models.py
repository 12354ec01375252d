import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_vlm import save_tiny_vlm
from transformers import LlamaConfig, LlamaForCausalLM

from studies.errors import ModelError
from studies.folders import find, fingerprint
from studies.models import load, load_processor


@dataclass(frozen=True)
class Source:
    id: str
    revision: str | None = None
    dtype: str = "float32"
    attention: str = "sdpa"
    trust_remote_code: bool = False


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return save_tiny_vlm(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def folder(original, tmp_path):
    shutil.copytree(original, tmp_path / "tiny")
    return tmp_path / "tiny"


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_loads_a_folder_in_eval_mode_and_the_dtype_asked_for(folder):
    model, processor, found = load(Source(str(folder), dtype="bfloat16", attention="eager"))
    assert not model.training
    assert model.dtype == torch.bfloat16
    assert model.config._attn_implementation == "eager"
    assert processor.image_token_id == model.config.image_token_id
    assert found == folder


def without(name: str):
    return lambda folder: (folder / name).unlink()


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def fewer_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if "q_proj" in name))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def other_shapes(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", text_config=config["text_config"] | {"intermediate_size": 65})


def cut_off(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def own_code(folder: Path) -> None:
    edit(
        folder / "config.json",
        model_type="mystery",
        auto_map={"AutoConfig": "code.Config", "AutoModelForImageTextToText": "code.Model"},
    )
    (folder / "code.py").write_text("raise SystemExit('this must never run')")


def text_only(folder: Path) -> None:
    for name in ("config.json", "model.safetensors", "processor_config.json"):
        (folder / name).unlink()
    sizes = {"vocab_size": 30, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2)).save_pretrained(folder)


BAD_FOLDERS = {
    "no config": (without("config.json"), "holds no config.json"),
    "config is no JSON": (
        lambda folder: (folder / "config.json").write_text("{"),
        "config.json cannot be read",
    ),
    "config is no object": (lambda folder: (folder / "config.json").write_text("[]"), "holds no object"),
    "no weights": (without("model.safetensors"), "there are no weights"),
    "pickled weights": (pickled, "pytorch_model.bin is pickled and could run code"),
    "a weight is missing": (fewer_weights, "lacks 1 weights, such as model."),
    "weights of another shape": (other_shapes, "cannot be loaded"),
    "weights cut off": (cut_off, "cannot be loaded"),
    "code of its own": (own_code, "code of its own, which is not run"),
    "unknown architecture": (lambda f: edit(f / "config.json", model_type="mystery"), "cannot be loaded"),
    "a text model": (text_only, "it reads no images"),
    "no processor": (without("processor_config.json"), "reads no images|cannot be loaded"),
    "no chat template": (without("chat_template.jinja"), "has no chat template"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_a_folder_that_cannot_be_used_says_why_in_one_line(folder, case):
    spoil, what = BAD_FOLDERS[case]
    spoil(folder)
    with pytest.raises(ModelError, match=what) as caught:
        load(Source(str(folder)))
    assert str(caught.value).startswith(f"model {folder}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"dtype": "int8"}, {"attention": "sdqa"}])
def test_a_setting_that_does_not_exist(folder, change):
    with pytest.raises(ModelError, match=next(iter(change.values()))):
        load(Source(str(folder), **change))


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "~/nowhere", "nowhere", "a/b/c"])
def test_a_name_that_is_neither_folder_nor_hub_id(name):
    with pytest.raises(ModelError, match="there is no such folder; give a folder or a hub id"):
        find(name)


def test_a_hub_id_that_cannot_be_had_says_so_in_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="'nobody/nothing': neither a folder here nor to be had") as caught:
        find("nobody/nothing")
    assert "\n" not in str(caught.value)


def test_a_hub_id_becomes_its_snapshot_without_pickles(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, **how: asked.update(how, name=name) or tmp_path
    )
    assert find("org/name", revision="v1") == tmp_path
    assert (asked["name"], asked["revision"]) == ("org/name", "v1")
    assert not any("bin" in pattern or pattern == "*" for pattern in asked["allow_patterns"])


def test_a_tokenizer_without_padding_gets_one(folder):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    _, processor, _ = load(Source(str(folder)))
    assert processor.tokenizer.pad_token_id is not None


def test_the_fingerprint_is_of_names_and_bytes_alone(original, folder):
    assert fingerprint(folder) == fingerprint(original)
    (folder / "README.md").write_text("other words")
    (folder / "training.log").write_text("other words")
    assert fingerprint(folder) == fingerprint(original)


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "tokenizer.json", "processor_config.json", "generation_config.json"],
)
def test_the_fingerprint_changes_with_every_file_that_matters(original, folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes() + b" ")
    assert fingerprint(folder) != fingerprint(original)


def test_the_fingerprint_sees_a_change_that_keeps_the_size(original, folder):
    assert fingerprint(folder) == fingerprint(original)
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert fingerprint(folder) != fingerprint(original)


def test_the_fingerprint_of_no_model(tmp_path):
    with pytest.raises(ModelError, match=r"holds no config.json"):
        fingerprint(tmp_path)


def test_the_processor_alone_needs_no_weights(folder):
    (folder / "model.safetensors").unlink()
    assert load_processor(Source(str(folder))).image_token_id == 4
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_processor(Source(str(folder)))


def test_loading_draws_no_bar_off_a_terminal(original, capsys):
    transformers.utils.logging.enable_progress_bar()
    load(Source(str(original)))
    assert capsys.readouterr().err == ""
    assert transformers.utils.logging.is_progress_bar_enabled()

"""Folders of models that carry code of their own, as a hub's repository does."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, LlavaForConditionalGeneration
from zoo_models import IMAGE, TEXT, VISION

CODE = Path(__file__).with_name("remote_chat.py")


def write_chat(folder: Path, model_type: str = "qwen2") -> Path:
    """The folder of `remote_chat.py`, its configuration alone."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(CODE, folder)
    config = {
        "model_type": "internvl_chat",
        "architectures": ["TinyChatModel"],
        "auto_map": {
            "AutoConfig": "remote_chat.TinyChatConfig",
            "AutoModel": "remote_chat.TinyChatModel",
            "AutoModelForCausalLM": "remote_chat.TinyChatModel",
        },
        "vision_config": VISION | {"model_type": "clip_vision_model", "image_size": 64},
        "llm_config": TEXT | {"model_type": model_type},
        "downsample_ratio": 0.5,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


OWN_LLAVA = """
from transformers import LlavaConfig, LlavaForConditionalGeneration


class OwnConfig(LlavaConfig):
    model_type = "own_llava"


class OwnLlava(LlavaForConditionalGeneration):
    config_class = OwnConfig
"""


def write_own_llava(original: Path, folder: Path) -> Path:
    """A copy of a LLaVA whose folder says that its classes are code of its own."""
    shutil.copytree(original, folder)
    (folder / "own_llava.py").write_text(OWN_LLAVA)
    config = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "own_llava.OwnConfig", "AutoModelForCausalLM": "own_llava.OwnLlava"}
    config |= {"model_type": "own_llava", "architectures": ["OwnLlava"], "auto_map": classes}
    (folder / "config.json").write_text(json.dumps(config))
    # transformers renames the weights of the classes that it knows when it saves and loads them
    weights = LlavaForConditionalGeneration.from_pretrained(original).state_dict()
    save_file({name: weight.clone() for name, weight in weights.items()}, folder / "model.safetensors")
    return folder


def internvl_chat(model_type: str = "qwen2") -> Any:
    """A random model, loaded as remote code, that knows its placeholder."""
    with tempfile.TemporaryDirectory() as folder:
        config = AutoConfig.from_pretrained(
            write_chat(Path(folder) / "chat", model_type), trust_remote_code=True
        )
        with torch.random.fork_rng():
            model = AutoModel.from_config(config, trust_remote_code=True)
    model.img_context_token_id = IMAGE
    return model

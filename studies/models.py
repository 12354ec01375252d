"""Models: where one lies, whether it can be trusted, how it is loaded, and which one it is."""

import functools
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from studies.errors import ModelError

DTYPES = ("float32", "bfloat16", "float16")
#: The files of a folder that decide what a model answers.
FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template.*",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.safetensors",
    "*.safetensors.index.json",
)


class ModelSource(Protocol):
    """What `load` reads of a study's spec."""

    @property
    def id(self) -> str: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def dtype(self) -> str: ...
    @property
    def attention(self) -> str: ...


class LoadedModel(NamedTuple):
    """A model in eval mode with its processor, and the folder that both came from."""

    model: Any
    processor: Any
    folder: Path


def find(name: str, revision: str | None = None) -> Path:
    """The folder of a model: a local folder as it is, else the Hugging Face hub's snapshot of `name`.

    Downloads what is missing unless HF_HUB_OFFLINE is set, never pickles. ModelError when there is none.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise ModelError(
            f"model {name!r}: there is no such folder; give a folder or a hub id such as org/name"
        )
    import huggingface_hub

    try:
        with _no_bars_off_a_terminal():
            return Path(
                huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=list(FILES))
            )
    except Exception as error:
        reason = _first_line(error)
        raise ModelError(
            f"model {name!r}: neither a folder here nor to be had from the hub ({reason}); check the name, "
            "the network and HF_HUB_OFFLINE, or give a folder"
        ) from error


def check_folder(folder: Path) -> dict[str, Any]:
    """The folder's config; ModelError unless it is a model's folder whose weights are safetensors."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"model {folder}: holds no config.json; give the folder that save_pretrained wrote")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"model {folder}: config.json cannot be read ({error}); copy it again") from error
    if not isinstance(config, dict):
        raise ModelError(f"model {folder}: config.json holds no object; copy it again")
    if not any(folder.glob("*.safetensors")):
        pickled = next((found.name for found in folder.glob("*.bin")), None)
        has = f"{pickled} is pickled and could run code when loaded" if pickled else "there are no weights"
        raise ModelError(f"model {folder}: {has}; save it as safetensors (save_pretrained does)")
    return config


def load(source: ModelSource, device: str = "cpu") -> LoadedModel:
    """Loads a model and its processor by transformers' Auto classes: safetensors only, no code of its own.

    ModelError, in one line, when there is no such model, when it is incomplete or needs code of its own, or
    when it is no model that reads images and writes text.
    """
    folder = find(source.id, source.revision)
    check_folder(folder)
    if source.dtype not in DTYPES:
        raise ModelError(f"model {folder}: dtype {source.dtype!r} is none of {', '.join(DTYPES)}")
    with _explaining(folder), _no_bars_off_a_terminal():
        return LoadedModel(_load_model(folder, source, device), _load_processor(folder), folder)


def load_processor(source: ModelSource) -> Any:
    """The processor of `load` alone; no weights are read. ModelError as there."""
    folder = find(source.id, source.revision)
    with _explaining(folder):
        return _load_processor(folder)


@contextmanager
def _explaining(folder: Path) -> Iterator[None]:
    """Whatever transformers raises becomes one line that names the model."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"model {folder}: cannot be loaded: {_explained(error)}") from error


@contextmanager
def _no_bars_off_a_terminal() -> Iterator[None]:
    """Bars for downloads and weights are for a person who watches; in a log they are noise."""
    from transformers.utils import logging

    if sys.stderr.isatty() or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def _load_model(folder: Path, source: ModelSource, device: str) -> Any:
    from transformers import AutoModelForImageTextToText

    model, report = AutoModelForImageTextToText.from_pretrained(
        folder,
        dtype=getattr(torch, source.dtype),
        attn_implementation=source.attention,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        output_loading_info=True,
    )
    if report["missing_keys"]:
        lacking = sorted(report["missing_keys"])
        raise ModelError(f"model {folder}: lacks {len(lacking)} weights, such as {lacking[0]}; copy it again")
    return model.to(device).eval()


def _load_processor(folder: Path) -> Any:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None or getattr(processor, "image_processor", None) is None:
        raise ModelError(f"model {folder}: its processor reads no images; use a vision-language model")
    if (getattr(processor, "chat_template", None) or tokenizer.chat_template) is None:
        raise ModelError(f"model {folder}: has no chat template; add chat_template.jinja to the folder")
    if tokenizer.pad_token_id is None:
        # Padding is masked, so that any token will do.
        tokenizer.pad_token = tokenizer.eos_token
    return processor


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _explained(error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return "it needs code of its own, which is not run; use a model that transformers itself knows"
    if "Unrecognized configuration class" in str(error):
        return "it reads no images; use a vision-language model"
    return _first_line(error)


def fingerprint(name: str | Path, revision: str | None = None) -> str:
    """Which model a folder or hub id holds: a sha256 over config, weights, tokenizer and processor.

    Names and bytes count, the folder's place does not. A file is read again when its size or time changed.
    ModelError when there is no such model.
    """
    folder = find(os.fspath(name), revision)
    check_folder(folder)
    found = {path for pattern in FILES for path in folder.glob(pattern) if path.is_file()}
    total = hashlib.sha256()
    for path in sorted(found):
        stat = path.stat()
        total.update(f"{path.name}\0{_digest(os.fspath(path), stat.st_mtime_ns, stat.st_size)}\n".encode())
    return total.hexdigest()


@functools.lru_cache(maxsize=4096)
def _digest(path: str, mtime_ns: int, size: int) -> str:  # noqa: ARG001
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

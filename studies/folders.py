"""A model's folder: where it lies, whether what it holds can be trusted, and which model it is."""

import functools
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from studies.errors import ModelError

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
#: The code that a folder brings; it counts, and is fetched, where it is trusted.
CODE = "*.py"


def find(
    name: str, revision: str | None = None, *, trust_remote_code: bool = False, files: Sequence[str] = FILES
) -> Path:
    """The folder of a model: a local folder as it is, else the Hugging Face hub's snapshot of `name`.

    Downloads what is missing of `files`, and code where it is trusted, unless HF_HUB_OFFLINE is set; never
    pickles. ModelError when there is none, or when trusted code would come from elsewhere.
    """
    folder = _find(name, revision, [*files, *([CODE] if trust_remote_code else [])])
    if trust_remote_code:
        _refuse_foreign_code(folder)
    return folder


def _find(name: str, revision: str | None, files: list[str]) -> Path:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise ModelError(
            f"model {name!r}: there is no such folder; give a folder or a hub id such as org/name"
        )
    import huggingface_hub

    try:
        with no_bars_off_a_terminal():
            return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=files))
    except Exception as error:
        reason = first_line(error)
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


def _refuse_foreign_code(folder: Path) -> None:
    """Code that a file of the folder takes from another repository is neither here nor in the fingerprint."""
    for path in sorted(folder.glob("*config.json")):
        for name in _classes_named(path):
            elsewhere, sign, _ = name.partition("--")
            if sign:
                raise ModelError(
                    f"model {folder}: {path.name} takes its code from {elsewhere}, which is not run; copy "
                    "that code into the folder, and leave the repository's name out"
                )


def _classes_named(path: Path) -> list[str]:
    """What every `auto_map` in a JSON file points to."""
    found: list[str] = []

    def look(values: dict[str, Any]) -> dict[str, Any]:
        for name in (values.get("auto_map") or {}).values():
            # a tokenizer has a slow class and a fast one, or either
            found.extend(filter(None, name if isinstance(name, list) else [name]))
        return values

    try:
        json.loads(path.read_text(encoding="utf-8"), object_hook=look)
    except (OSError, ValueError, AttributeError):
        return []  # whoever needs the file says what is wrong with it
    return found


def fingerprint(name: str | Path, revision: str | None = None, *, trust_remote_code: bool = False) -> str:
    """Which model a folder or hub id holds: a sha256 over config, weights, tokenizer and processor.

    Trusted code counts as well. Names and bytes count, the folder's place does not. A file is read again when
    its size or time changed.
    ModelError when there is no such model.
    """
    folder = find(os.fspath(name), revision, trust_remote_code=trust_remote_code)
    check_folder(folder)
    patterns = [*FILES, *([f"**/{CODE}"] if trust_remote_code else [])]
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    total = hashlib.sha256()
    for path in sorted(found):
        stat = path.stat()
        digest = _digest(os.fspath(path), stat.st_mtime_ns, stat.st_size)
        total.update(f"{path.relative_to(folder).as_posix()}\0{digest}\n".encode())
    return total.hexdigest()


@functools.lru_cache(maxsize=4096)
def _digest(path: str, mtime_ns: int, size: int) -> str:  # noqa: ARG001
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def no_bars_off_a_terminal() -> Iterator[None]:
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


def first_line(error: BaseException) -> str:
    """The first line of what it says."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

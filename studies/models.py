"""Models: how one is loaded with its processor."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from pruners.costs.shape import AUTO_CLASSES
from studies.errors import ModelError
from studies.folders import FILES, check_folder, find, first_line, no_bars_off_a_terminal

DTYPES = ("float32", "bfloat16", "float16")


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
    @property
    def trust_remote_code(self) -> bool: ...


class LoadedModel(NamedTuple):
    """A model in eval mode with its processor, and the folder that both came from."""

    model: Any
    processor: Any
    folder: Path


def load(source: ModelSource, device: str = "cpu") -> LoadedModel:
    """Loads a model and its processor by transformers' Auto classes: safetensors only.

    ModelError, in one line, when there is no such model, when it is incomplete or needs code of its own that
    is not trusted, or when it is no model that reads images and writes text.
    """
    folder = find(source.id, source.revision, trust_remote_code=source.trust_remote_code)
    config = check_folder(folder)
    if source.dtype not in DTYPES:
        raise ModelError(f"model {folder}: dtype {source.dtype!r} is none of {', '.join(DTYPES)}")
    with _explaining(folder), no_bars_off_a_terminal():
        model = _load_model(folder, config, source, device)
        return LoadedModel(model, _load_processor(folder, source), folder)


def load_config(source: ModelSource) -> Any:
    """The configuration alone; no weights are read or fetched. What transformers raises is passed on."""
    from transformers import AutoConfig

    place: str | Path = source.id
    if source.trust_remote_code:
        light = [pattern for pattern in FILES if "safetensors" not in pattern]
        place = find(source.id, source.revision, trust_remote_code=True, files=light)
    return AutoConfig.from_pretrained(
        place, revision=source.revision, trust_remote_code=source.trust_remote_code
    )


def load_processor(source: ModelSource) -> Any:
    """The processor of `load` alone; no weights are read. ModelError as there."""
    folder = find(source.id, source.revision, trust_remote_code=source.trust_remote_code)
    with _explaining(folder):
        return _load_processor(folder, source)


@contextmanager
def _explaining(folder: Path) -> Iterator[None]:
    """Whatever transformers raises becomes one line that names the model."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"model {folder}: cannot be loaded: {explained(error)}") from error


def _load_model(folder: Path, config: dict[str, Any], source: ModelSource, device: str) -> Any:
    import transformers

    own = config.get("auto_map") or {} if source.trust_remote_code else {}
    # a model's own code may offer itself by another name than that of its task
    name = next((name for name in AUTO_CLASSES if name in own), AUTO_CLASSES[0])
    model, report = getattr(transformers, name).from_pretrained(
        folder,
        dtype=getattr(torch, source.dtype),
        attn_implementation=source.attention,
        use_safetensors=True,
        trust_remote_code=source.trust_remote_code,
        local_files_only=True,
        output_loading_info=True,
    )
    if report["missing_keys"]:
        lacking = sorted(report["missing_keys"])
        raise ModelError(f"model {folder}: lacks {len(lacking)} weights, such as {lacking[0]}; copy it again")
    return model.to(device).eval()


def _load_processor(folder: Path, source: ModelSource) -> Any:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(
        folder, trust_remote_code=source.trust_remote_code, local_files_only=True
    )
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None or getattr(processor, "image_processor", None) is None:
        raise ModelError(f"model {folder}: its processor reads no images; use a vision-language model")
    if (getattr(processor, "chat_template", None) or tokenizer.chat_template) is None:
        raise ModelError(f"model {folder}: has no chat template; add chat_template.jinja to the folder")
    if tokenizer.pad_token_id is None:
        # Padding is masked, so that any token will do.
        tokenizer.pad_token = tokenizer.eos_token
    return processor


def explained(error: Exception) -> str:
    """What transformers raised, in one line."""
    if "trust_remote_code" in str(error):
        return (
            "it needs code of its own, which is not run; use a model that transformers itself knows, or, if "
            "you trust that code, give --trust-remote-code"
        )
    if "Unrecognized configuration class" in str(error):
        return "it reads no images; use a vision-language model"
    return first_line(error)

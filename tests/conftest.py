"""What several test files share: a tiny random model with data, made once per test run."""

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# transformers copies the code that models bring to a place that it reads off the environment when it is imported
if "HF_MODULES_CACHE" not in os.environ:
    os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="modules-")
    atexit.register(shutil.rmtree, os.environ["HF_MODULES_CACHE"], ignore_errors=True)

from tiny_vlm import save_tiny_vlm, write_images


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaVA of eight layers in an ordinary Hugging Face folder."""
    return save_tiny_vlm(tmp_path_factory.mktemp("model") / "tiny", layers=8)


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the same kind, but deeper."""
    return save_tiny_vlm(tmp_path_factory.mktemp("model") / "deeper", layers=9)


@pytest.fixture(scope="session")
def tiny_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve search and eight test samples."""
    folder = tmp_path_factory.mktemp("data")
    rows = [
        {
            "id": f"s{number}",
            "image": f"images/{path.name}",
            "question": "what digit is red",
            "answers": ["one"],
            "split": "search" if number < 12 else "test",
        }
        for number, path in enumerate(write_images(folder / "images", 20))
    ]
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that a process without privileges may enter; `tmp_path` is closed to others."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Root may write everywhere: be somebody else for the test."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)

"""The folders' order: who may import whom, and what importing the command line costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("pruners", "studies", "db", "searchsvc")


def imported(path: Path) -> set[str]:
    """Return the top-level names that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


ALLOWED = {
    "pruners": {"pruners"},
    "studies": {"pruners", "studies"},
    "db": {"db"},
    "searchsvc": set(PACKAGES),
}


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows_go_one_way(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        ours = imported(path) & set(PACKAGES)
        assert ours <= ALLOWED[package], f"{path.relative_to(ROOT)} imports {ours - ALLOWED[package]}"


def test_one_file_imports_ray() -> None:
    users = [
        path.relative_to(ROOT)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if "ray" in imported(path)
    ]
    assert [str(path) for path in users] == ["searchsvc/cluster.py"]


def test_database_package_does_without_torch() -> None:
    for path in (ROOT / "db").rglob("*.py"):
        assert "torch" not in imported(path), path


@pytest.mark.parametrize(
    ("module", "left_out"),
    [
        ("searchsvc.cli", {"torch", "ray", "transformers", "optuna", "skopt"}),
        # takes the lease over, which is not to wait
        ("searchsvc.child", {"torch", "ray", "transformers", "optuna", "skopt"}),
        # one process per running study, in which no model runs
        ("searchsvc.controller", {"transformers.modeling_utils", "torch._dynamo", "matplotlib"}),
    ],
)
def test_what_a_process_does_without(module: str, left_out: set[str]) -> None:
    code = f"import sys, {module}; print(sorted({left_out} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_no_file_has_a_name_that_says_nothing() -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            assert path.stem not in {"utils", "util", "common", "helpers", "misc"}, path

"""What the documentation says must be there: commands with their flags, methods, metrics, files, links."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_cli import commands
from typer.main import get_command

from pruners.rankers import RANKERS
from searchsvc.cli.app import app
from studies.metrics import METRICS
from studies.searches import SEARCHES
from studies.spec import GoalSpec, StudySpec

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def shell_lines() -> list[list[str]]:
    """Every `searchsvc ...` line of a code block or in backquotes, as words."""
    joined = README.replace("\\\n", " ")
    found = re.findall(r"^searchsvc .*$", joined, re.MULTILINE) + re.findall(r"`(searchsvc [^`]*)`", joined)
    return [shlex.split(line, comments=True) for line in found]


def resolve(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words call, and what is left for it."""
    command, rest = get_command(app), words[1:]
    while rest and hasattr(command, "commands") and rest[0] in command.commands:
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


def test_every_shown_command_exists_with_its_flags() -> None:
    lines = shell_lines()
    assert len(lines) > 8
    for words in lines:
        command, rest = resolve(words)
        known = {name for option in command.params for name in option.opts}
        for word in rest:
            if word.startswith("-"):
                assert word.partition("=")[0] in known, f"{' '.join(words)}: no {word}"


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_stands_in_the_readme(words: tuple[str, ...]) -> None:
    assert f"searchsvc {' '.join(words)}" in README


@pytest.mark.parametrize("name", [*SEARCHES, *METRICS, *RANKERS])
def test_every_method_metric_and_ranker_stands_in_the_readme(name: str) -> None:
    assert f"`{name}`" in README


def test_the_manifest_shown_is_one_that_is_read() -> None:
    from studies.manifest import KEYS

    (line,) = blocks("json")
    assert set(json.loads(line)) <= set(KEYS)


def test_the_spec_shown_is_one_that_is_read() -> None:
    (text,) = blocks("yaml")
    spec = StudySpec.from_yaml(text)
    assert spec.search.method == "p-sigmoid"
    shown = yaml.safe_load(text)["goal"]
    assert set(shown) == set(GoalSpec.model_fields), "a goal that is not shown"


@pytest.mark.parametrize("goal", GoalSpec.model_fields)
def test_every_goal_stands_in_readme_and_help(goal: str) -> None:
    key = goal.replace("_", "-")
    assert f"--goal {key}=" in README
    (option,) = (o for o in get_command(app).commands["study"].commands["create"].params if o.name == "goal")
    assert key in option.help


@pytest.mark.parametrize("method", SEARCHES)
def test_every_option_of_a_method_stands_in_the_readme(method: str) -> None:
    everywhere = {"method", "seed", "sampler", "initial"}
    for option in set(SEARCHES[method].Options.model_fields) - everywhere:
        assert f"`{option}`" in README, option


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_files_that_the_security_page_names_exist() -> None:
    named = re.findall(r"`([a-z]+/[a-z_/]+\.py)`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 5
    for name in named:
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_that_are_named_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"(?:`|^ {4})make ([a-z-]+)", page.read_text(), re.MULTILINE):
        assert target in targets

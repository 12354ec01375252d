"""Random specs, profiles, manifests and command lines: never a traceback, never a changed database.

FUZZ_CASES sets how many of each; it is the same cases every time:

    FUZZ_CASES=2500 pytest tests/test_fuzz_inputs.py --timeout 0
"""

import contextlib
import copy
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_cli import commands
from test_errors import PROFILE, contents
from typer.main import get_command

import db.backup
import searchsvc.benching
import searchsvc.controller
import searchsvc.creation
import searchsvc.dashboard
import searchsvc.demo.data
import searchsvc.demonstration
import searchsvc.following
import searchsvc.logs
import searchsvc.maintenance
import searchsvc.preflight
import searchsvc.steering
import searchsvc.verification
from searchsvc.cli.app import app, run
from searchsvc.errors import ServiceError

CASES = int(os.environ.get("FUZZ_CASES", "60"))
fuzz = settings(
    max_examples=CASES,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

#: What would take long, write elsewhere or never end; all that comes before it is what is tried here.
LONG = (
    (db.backup, "backup"),
    (db.backup, "restore"),
    (searchsvc.benching, "bench_profile"),
    (searchsvc.controller, "run_study"),
    (searchsvc.creation, "try_subject"),
    (searchsvc.creation, "clone_study"),
    (searchsvc.dashboard, "make_server"),
    (searchsvc.demo.data, "write"),
    (searchsvc.demonstration, "demonstrate"),
    (searchsvc.following, "new_trials"),
    (searchsvc.following, "wait_for"),
    (searchsvc.logs, "log_as_json"),
    (searchsvc.maintenance, "upgrade_database"),
    (searchsvc.preflight, "preflight"),
    (searchsvc.steering, "ask"),
    (searchsvc.steering, "resume"),
    (searchsvc.steering, "retry"),
    (searchsvc.verification, "Evaluations"),
)


class Place:
    """A folder with a database that holds one study, which stays as it is."""

    def __init__(self, folder: Path, model: Path, manifest: Path) -> None:
        self.folder, self.model, self.manifest = folder, model, manifest
        self.db = folder / "studies.db"

    def file(self, name: str, content: str | bytes) -> str:
        path = self.folder / name
        path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
        return str(path)

    def check(self, words: list[str]) -> int:
        """Run a command; whatever it ends with, it ends as it should."""
        before = contents(self.db)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = run(words)
        said = err.getvalue()
        assert status in (0, 2, 5, 6), (status, said)
        assert "Traceback" not in said
        assert status == 0 or said.startswith("searchsvc: "), said
        assert contents(self.db) == before
        return status


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_manifest: Path) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("fuzz"), tiny_model, tiny_manifest)
    create = ["study", "create", "kept", "--model", tiny_model, "--data", tiny_manifest, "--method", "vtw"]
    assert run([*map(str, create), "--metric", "fidelity", "--db", str(made.db)]) == 0

    def stop(*_: object, **__: object) -> None:
        raise ServiceError("so far, and no further")

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made.folder)
        patch.setenv("SEARCHSVC_HOME", str(made.folder))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        for module, name in LONG:
            patch.setattr(module, name, stop)
        yield made


text = st.text(max_size=12) | st.sampled_from(
    ["", "~", "null", "1e9", ".nan", "a: b", "../x", "\x00", "é", "\ud800", "x" * 400]
)
numbers = st.integers() | st.floats() | st.sampled_from([0, -1, 10**400, 1e308, 2**63])
scalars = st.none() | st.booleans() | numbers | text
junk = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in nested lists and mappings something stands."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, each in inner for found in places(each, (*path, key)))]


@st.composite
def changed(draw: st.DrawFn, good: Any) -> Any:
    """Good data with some values replaced, removed or added."""
    data = copy.deepcopy(good)
    for _ in range(draw(st.integers(0, 3))):
        *way, last = draw(st.sampled_from([path for path in places(data) if path] or [(None,)]))
        if last is None:
            break
        holder = data
        for key in way:
            holder = holder[key]
        match draw(st.sampled_from(["replace", "replace", "remove", "add"])):
            case "replace":
                holder[last] = draw(junk)
            case "remove":
                del holder[last]
            case "add" if isinstance(holder, dict):
                holder[draw(text)] = draw(junk)
    return data


@st.composite
def garbled(draw: st.DrawFn, good: str) -> str | bytes:
    """Good text with something written over a part of it; or bytes that are no text."""
    start = draw(st.integers(0, len(good)))
    end = draw(st.integers(start, min(len(good), start + 20)))
    new = draw(
        st.text(max_size=20)
        | st.sampled_from(
            ["&a", "*a", "<<: ", "!!python/name:os.system ", "---\n", "\t", "[" * 99, '"', "- ", "? "]
        )
    )
    made = good[:start] + new + good[end:]
    return draw(st.just(made) | st.just(made.encode("utf-16")) | st.binary(max_size=40))


def yaml_of(data: Any) -> str:
    return yaml.safe_dump(data, allow_unicode=True)


SPEC = yaml.safe_load("""
name: another
model: {id: MODEL, dtype: float32, attention: sdpa, revision: null}
data: {path: MANIFEST, split: {search: 8, test: 4, seed: 0}, metric: fidelity, allow_outside_images: false}
search: {method: p-sigmoid, budgets: [0.25, 0.5], trials: 5, sampler: tpe, seed: 0}
goal: {max_drop: 0.01, max_latency_ratio: 0.7}
limits: {hours: 6, trials: 10}
workers: {count: 2, gpus_per_worker: 0, batch_size: 4, parallel_trials: 2, cache_memory: 1GiB}
max_new_tokens: 4
""")


@fuzz
@given(data=st.data())
def test_specs(place: Place, data: st.DataObject) -> None:
    good = {
        **SPEC,
        "model": {**SPEC["model"], "id": str(place.model)},
        "data": {**SPEC["data"], "path": str(place.manifest)},
    }
    content = data.draw(changed(good).map(yaml_of) | garbled(yaml_of(good)))
    spec = place.file("spec.yaml", content)
    assert place.check(["study", "create", "--spec", spec, "--db", str(place.db)]) != 0


@fuzz
@given(data=st.data())
def test_profiles(place: Place, data: st.DataObject) -> None:
    good = PROFILE.format(model=place.model)
    content = data.draw(changed(yaml.safe_load(good)).map(yaml_of) | garbled(good))
    profile = place.file("profile.yaml", content)
    shown = place.check(["profile", "show", profile])
    cost = place.check(
        ["cost", str(place.model), "--visual-tokens", "9", "--text-tokens", "9", "--profile", profile]
    )
    assert cost in (0, shown) or shown == 0
    verify = ["profile", "verify", profile, "--data", str(place.manifest), "--db", str(place.db)]
    assert place.check(verify) != 0


@fuzz
@given(data=st.data())
def test_manifests(place: Place, data: st.DataObject) -> None:
    lines = place.manifest.read_text().splitlines()
    rows = data.draw(st.lists(st.sampled_from(lines).map(json.loads).flatmap(changed), max_size=4))
    whole = "\n".join(json.dumps(row) for row in rows)
    content = data.draw(st.just(whole) | garbled("\n".join(lines[:3])))
    # beside the images, so that good rows stay good
    manifest = place.manifest.with_name("fuzzed.jsonl")
    manifest.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    words = [
        "study",
        "create",
        "another",
        "--model",
        str(place.model),
        "--method",
        "vtw",
        "--data",
        str(manifest),
    ]
    assert place.check([*words, "--db", str(place.db)]) != 0


def options_of(words: tuple[str, ...]) -> list[str]:
    """What a command's options are called."""
    command: Any = get_command(app)
    for word in words:
        command = command.commands[word]
    return [name for option in command.params for name in option.opts if name.startswith("-")]


values = st.sampled_from(["kept", "demo", "0", "-1", "1e9", "nan", "json", "vtw", "other.db", "a=b", "max-drop=0.1", "trials=[", "fastv:k=2,r=0.5", "p-sigmoid:b=", "table:rates=1/x"])  # fmt: skip
words = values | text.filter(lambda value: not value.startswith("/")) | numbers.map(str)


@fuzz
@given(command=st.sampled_from(commands()), data=st.data())
def test_command_lines(place: Place, command: tuple[str, ...], data: st.DataObject) -> None:
    option = (
        st.sampled_from([*options_of(command), "--nonsense"]) if options_of(command) else st.just("--help")
    )
    drawn = data.draw(st.lists(st.tuples(option, st.none() | words), max_size=4))
    given_ = [word for name, value in drawn for word in ([name] if value is None else [name, value])]
    # of the commands that are meant to change a database, what is typed right must change none that is there
    changing = "delete" in command or "prune" in command
    db = str(place.folder / "none.db" if changing else place.db)
    here = ["--db", db] if "--db" in options_of(command) and "--db" not in given_ else []
    place.check([*command, *data.draw(st.lists(words, max_size=2)), *given_, *here])

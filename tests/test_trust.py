"""Code that a model's folder brings: run where it is trusted, counted, recorded; else one line, and nothing runs."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from remote_models import write_chat, write_own_llava

from db import studies
from db.session import Database
from pruners.costs.shape import ModelShape, build_without_memory
from searchsvc.cli.app import run
from searchsvc.costing import read_config
from searchsvc.errors import ServiceError
from searchsvc.subject import stored_spec, subject_of
from searchsvc.verification import _read
from studies.errors import ModelError
from studies.folders import find, fingerprint
from studies.models import load, load_processor
from studies.spec import ModelSpec

UNTRUSTED = "needs code of its own, which is not run"


@pytest.fixture
def own(tiny_model: Path, tmp_path: Path) -> Path:
    return write_own_llava(tiny_model, tmp_path / "own")


def trusted(folder: Path) -> ModelSpec:
    return ModelSpec(id=str(folder), trust_remote_code=True)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a command ends with."""
    assert run(list(arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_without_the_flag_nothing_runs(own: Path) -> None:
    (own / "own_llava.py").write_text("raise SystemExit('this must never run')")
    with pytest.raises(ModelError, match=rf"{UNTRUSTED}.* give --trust-remote-code$") as caught:
        load(ModelSpec(id=str(own)))
    assert "\n" not in str(caught.value)
    with pytest.raises(ServiceError, match=UNTRUSTED):
        read_config(str(own))


def test_with_it_the_folders_own_class_answers_as_the_original(own: Path, tiny_model: Path) -> None:
    model, processor, _ = load(trusted(own))
    assert type(model).__name__ == "OwnLlava"
    assert type(model).__module__.startswith("transformers_modules.")
    original = load(ModelSpec(id=str(tiny_model))).model
    ids = torch.tensor([[1, *[processor.image_token_id] * 16, 7, 8]])
    inputs = {"input_ids": ids, "pixel_values": torch.randn(1, 3, 32, 32)}
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, original(**inputs).logits)


@pytest.mark.parametrize("trust", [False, True])
def test_a_processor_of_its_own_is_code_too(trust: bool, tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    shutil.copytree(tiny_model, folder)
    ran = folder / "ran"
    (folder / "own_processor.py").write_text(
        "from pathlib import Path\nfrom transformers import LlavaProcessor\n"
        f"Path({str(ran)!r}).touch()\nclass OwnProcessor(LlavaProcessor):\n    pass\n"
    )
    classes = {"AutoProcessor": "own_processor.OwnProcessor"}
    edit(folder / "processor_config.json", auto_map=classes, processor_class="OwnProcessor")
    with contextlib.nullcontext() if trust else pytest.raises(ModelError):
        load_processor(ModelSpec(id=str(folder), trust_remote_code=trust))
    assert ran.exists() == trust


def test_trusted_code_counts_in_the_fingerprint(own: Path) -> None:
    without, before = fingerprint(own), fingerprint(own, trust_remote_code=True)
    assert before != without
    (own / "parts").mkdir()
    (own / "parts" / "more.py").write_text("")
    more = fingerprint(own, trust_remote_code=True)
    (own / "own_llava.py").write_text((own / "own_llava.py").read_text() + "# a line\n")
    assert len({before, more, fingerprint(own, trust_remote_code=True)}) == 3
    assert fingerprint(own) == without


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"auto_map": {"AutoConfig": "some/where--own_llava.OwnConfig"}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": [None, "some/where--own.Fast"]}}),
        (
            "processor_config.json",
            {"image_processor": {"auto_map": {"AutoImageProcessor": "some/where--a.B"}}},
        ),
    ],
)
def test_code_from_another_repository_is_refused(own: Path, file: str, changes: dict[str, Any]) -> None:
    edit(own / file, **changes)
    with pytest.raises(ModelError, match=rf"{file} takes its code from some/where, which is not run"):
        load(trusted(own))
    with pytest.raises(ModelError, match="some/where"):
        read_config(str(own), trust_remote_code=True)


def test_a_hub_ids_code_is_fetched_only_where_it_is_trusted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda _name, **how: asked.append(how["allow_patterns"]) or tmp_path,
    )
    find("org/name")
    find("org/name", trust_remote_code=True)
    assert ["*.py" in patterns for patterns in asked] == [False, True]


def test_a_study_records_that_its_model_was_trusted(
    own: Path, tiny_manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    create = ["study", "create", "mine", "--model", str(own), "--data", str(tiny_manifest), "--method", "vtw"]
    create += ["--db", url]
    assert UNTRUSTED in refused(capsys, *create)
    assert run([*create, "--trust-remote-code"]) == 0
    with Database.open(url) as database:
        study = studies.get_study(database, "mine")
        assert stored_spec(study).model.trust_remote_code
        assert study.model.architecture == "OwnLlava"
        assert subject_of(study).config.model_type == "own_llava"
        # no configuration tells the grid of a model that nobody knows
        assert subject_of(study).longer_side(17) == 4
        (own / "own_llava.py").write_text((own / "own_llava.py").read_text() + "# a line\n")
        with pytest.raises(ServiceError, match="changed since the study was created"):
            subject_of(study)
        # another model than the study's is not trusted along with it
        other = _other(database, own, tiny_manifest)
        with pytest.raises(ServiceError, match=UNTRUSTED):
            _ = other(False).config
        assert other(True).config.model_type == "own_llava"


def _other(database: Database, model: Path, data: Path) -> Any:
    spec = stored_spec(studies.get_study(database, "mine"))
    return lambda trust: _read(spec, data, str(model), trust)


def test_inspect_and_cost(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inspect = ["model", "inspect", str(own)]
    assert UNTRUSTED in refused(capsys, *inspect)
    assert run([*inspect, "--trust-remote-code"]) == 0
    # the title may be broken where the folder's name is long
    assert "can be pruned" in " ".join(capsys.readouterr().out.split())
    cost = ["cost", str(own), "--visual-tokens", "16", "--text-tokens", "8"]
    assert UNTRUSTED in refused(capsys, *cost)
    # the code has run then, and what is wrong is something else
    assert "no cost formula for the vision part" in refused(capsys, *cost, "--trust-remote-code")


def test_verify_and_bench(own: Path, tiny_manifest: Path, tmp_path: Path, capsys: Any) -> None:
    model = {"id": str(own), "architecture": "OwnLlava", "num_layers": 8, "hidden_size": 32}
    profile = {"schema": "searchsvc/pruning-profile/v1", "name": "mine", "model": model}
    profile |= {"ranker": {"type": "uniform"}, "schedule": {"keep_rates": [1, 1, *[0.5] * 6]}}
    path = str(tmp_path / "profile.yaml")
    Path(path).write_text(json.dumps(profile))
    verify = ["profile", "verify", path, "--data", str(tiny_manifest), "--db", f"sqlite:///{tmp_path / 'db'}"]
    bench = ["profile", "bench", path, "--rounds", "6"]
    for command in (verify, bench):
        assert UNTRUSTED in refused(capsys, *command)
    assert run([*verify, "--trust-remote-code", "--output", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["samples"] == 8
    # nobody has a formula for the vision part of a model that nobody knows
    assert sorted(found["flops"]) == ["decoder_ratio", "paper_ratio"]
    assert run([*bench, "--trust-remote-code", "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["flops"]["exact_ratio"] is None


def test_a_model_is_built_without_memory_by_its_own_class(own: Path, tmp_path: Path) -> None:
    config = read_config(str(own), trust_remote_code=True)
    assert type(build_without_memory(config)).__name__ == "OwnLlava"
    assert ModelShape.from_config(config).num_layers == 8
    chat = read_config(str(write_chat(tmp_path / "chat")), trust_remote_code=True)
    assert type(build_without_memory(chat)).__name__ == "TinyChatModel"

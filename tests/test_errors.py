"""Wrong input: one clear line on stderr, the right exit status, and a database that is left as it was."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from searchsvc.cli.app import run

Arguments = Callable[["Place"], list[str]]


class Place:
    """A folder with a database that holds one finished study, a profile of it, and a model and data beside."""

    def __init__(self, folder: Path, model: Path, other: Path, manifest: Path) -> None:
        self.folder, self.model, self.other, self.manifest = folder, model, other, manifest
        self.db = folder / "studies.db"
        self.profile = folder / "profile.yaml"

    def write(self, name: str, text: str | bytes) -> str:
        """Write a file and return its path."""
        path = self.folder / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    def create(self, *arguments: str, name: str = "another") -> list[str]:
        """`study create` of a good study, with `arguments` behind it."""
        good = [
            "--model",
            str(self.model),
            "--data",
            str(self.manifest),
            "--method",
            "vtw",
            "--metric",
            "fidelity",
        ]
        return ["study", "create", name, *good, *arguments, "--db", str(self.db)]

    def row(self, **changes: object) -> str:
        """A manifest of one good row and one with changes."""
        image = min(path.name for path in (self.manifest.parent / "images").iterdir())
        good = {"id": "a", "image": image, "question": "what digit is red", "answers": ["one"]}
        (self.folder / image).write_bytes((self.manifest.parent / "images" / image).read_bytes())
        return json.dumps(good) + "\n" + json.dumps({**good, "id": "b", **changes}) + "\n"

    def configuration_alone(self) -> Path:
        """A folder with the model's config.json and nothing else."""
        alone = self.folder / "alone"
        alone.mkdir(exist_ok=True)
        (alone / "config.json").write_bytes((self.model / "config.json").read_bytes())
        return alone

    def spec(self, **changes: object) -> list[str]:
        """`study create` of a spec file, a good one but for the changes."""
        good = {
            "name": "another",
            "model": {"id": str(self.model)},
            "data": {"path": str(self.manifest), "metric": "fidelity"},
        }
        return self.spec_text(json.dumps({**good, "search": {"method": "vtw"}, **changes}, indent=1))

    def spec_text(self, text: str | bytes) -> list[str]:
        return ["study", "create", "--spec", self.write("s.yaml", text), "--db", str(self.db)]

    def link(self, name: str) -> str:
        """A link in the manifest's folder to an image beyond it."""
        path = self.folder / name
        path.unlink(missing_ok=True)
        path.symlink_to(self.picture())
        return name

    def huge_picture(self) -> str:
        """A small file that unpacks to more pixels than PIL takes for honest."""
        Image.new("1", (20_000, 10_000)).save(self.folder / "huge.png")
        return "huge.png"

    def picture(self) -> str:
        """A good image."""
        return str(next(iter((self.manifest.parent / "images").iterdir())))

    def changed_profile(self, old: str, new: str) -> str:
        """A copy of the profile with one text replaced."""
        text = self.profile.read_text()
        assert old in text
        return self.write("changed.yaml", text.replace(old, new, 1))


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, other_model: Path, tiny_manifest: Path
) -> Place:
    made = Place(tmp_path_factory.mktemp("errors"), tiny_model, other_model, tiny_manifest)
    assert run(made.create(name="new")) == 0
    run(["db", "upgrade", "--db", str(made.db)])
    profile = PROFILE.format(model=tiny_model)
    made.profile.write_text(profile)
    return made


PROFILE = """\
schema: searchsvc/pruning-profile/v1
name: tiny
model:
  id: {model}
  architecture: LlavaForConditionalGeneration
  num_layers: 8
  hidden_size: 32
ranker:
  type: uniform
schedule:
  keep_rates: [1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25]
"""


def verify(place: Place, profile: str, *arguments: str) -> list[str]:
    return ["profile", "verify", profile, "--data", str(place.manifest), "--db", str(place.db), *arguments]


#: (name, arguments, exit status, what the line must say)
CASES: list[tuple[str, Arguments, int, tuple[str, ...]]] = [
    ("no such data", lambda p: p.create("--data", "nowhere.jsonl"), 2, ("nowhere.jsonl", "no such file")),
    ("data is a folder", lambda p: p.create("--data", str(p.folder)), 2, ("folder",)),
    ("bad JSON", lambda p: p.create("--data", p.write("d.jsonl", '{"id": 1,\n')), 2, ("d.jsonl:1",)),
    ("no image", lambda p: p.create("--data", p.write("d.jsonl", p.row(image="no.png"))), 2, ("d.jsonl:2", "no.png")),
    (
        "no picture",
        lambda p: p.create("--data", p.write("d.jsonl", p.row(image=Path(p.write("x.png", "text")).name))),
        2,
        ("d.jsonl:2", "x.png"),
    ),
    ("unknown key in a row", lambda p: p.create("--data", p.write("d.jsonl", p.row(anser="x"))), 2, ("d.jsonl:2", "anser", "answers")),
    ("image outside", lambda p: p.create("--data", p.write("d.jsonl", p.row(image="../../x.png"))), 2, ("d.jsonl:2", "image")),
    ("too few samples", lambda p: p.create("--search-samples", "999"), 2, ("999",)),
    ("no such model", lambda p: p.create("--model", "./no-model"), 2, ("no-model",)),
    ("folder without a model", lambda p: p.create("--model", str(p.folder)), 2, ("config.json",)),
    ("unknown method", lambda p: p.create("--method", "g-serch"), 2, ("g-serch", "g-search")),
    ("unknown metric", lambda p: p.create("--metric", "exact"), 2, ("exact",)),
    ("unknown option", lambda p: p.create("-O", "trails=3"), 2, ("trails",)),
    ("layers that the model lacks", lambda p: p.create("--method", "fastv", "-O", "layers=[99]"), 2, ("99",)),
    ("option that is no YAML", lambda p: p.create("-O", "budgets=[0.1"), 2, ("budgets=[0.1", "cannot be read")),
    ("option with a Python tag", lambda p: p.create("-O", "trials=!!python/object/apply:os.getcwd []"), 2, ("trials", "cannot be read")),
    ("range the wrong way round", lambda p: p.create("--method", "topv", "-O", "epsilon=[0.5, 0.02]"), 2, ("epsilon", "in order")),
    ("range from below 0", lambda p: p.create("--method", "pareto", "-O", "epsilon=[-1, 0.5]"), 2, ("epsilon",)),
    ("curve too steep", lambda p: p.create("--method", "p-sigmoid", "-O", "k_max=1000"), 2, ("k_max", "100")),
    ("empty spec beside flags", lambda p: ["study", "create", "x", "--spec", p.write("s.yaml", ""), "--db", str(p.db)], 2, ("s.yaml", "holds no keys")),
    ("list as a spec", lambda p: ["study", "create", "x", "--spec", p.write("s.yaml", "[1]"), "--db", str(p.db)], 2, ("s.yaml", "holds no keys")),
    ("demo data with a negative seed", lambda p: ["demo", "data", str(p.folder / "d"), "--seed", "-1"], 2, ("--seed",)),
    ("demo data into a file", lambda p: ["demo", "data", p.write("file", "x")], 2, ("file", "choose another")),
    ("demo into a file", lambda p: ["demo", "--dir", p.write("file", "x")], 2, ("file", "choose another")),
    ("option without value", lambda p: p.create("-O", "trials"), 2, ("trials", "KEY=VALUE")),
    ("goal without value", lambda p: p.create("--goal", "max-latency-ratio"), 2, ("max-latency-ratio", "KEY=VALUE")),
    ("goal of nothing", lambda p: p.create("--goal", "max-latency-ratio="), 2, ("max-latency-ratio", "KEY=VALUE")),
    ("goal of 0", lambda p: p.create("--goal", "max-latency-ratio=0"), 2, ("goal.max_latency_ratio", "greater than 0")),
    ("goal above 1", lambda p: p.create("--goal", "max-latency-ratio=70"), 2, ("goal.max_latency_ratio", "equal to 1", "70")),
    ("goal in percent", lambda p: p.create("--goal", "max-latency-ratio=70%"), 2, ("goal.max_latency_ratio", "number", "70%")),
    ("goal that is no YAML", lambda p: p.create("--goal", "max-latency-ratio=["), 2, ("max-latency-ratio=[", "cannot be read")),
    ("unknown goal", lambda p: p.create("--goal", "max-latncy-ratio=0.7"), 2, ("max_latncy_ratio", "max_latency_ratio")),
    ("goal given twice", lambda p: p.create("--max-drop", "0.1", "--goal", "max-drop=0.2"), 2, ("--goal max-drop=0.2", "--max-drop")),
    ("unknown flag", lambda p: p.create("--modle", "x"), 2, ("--modle",)),
    ("value of a wrong type", lambda p: p.create("--workers", "many"), 2, ("--workers", "integer")),
    ("name with a slash", lambda p: p.create(name="a/b"), 2, ("a/b",)),
    ("no such spec", lambda p: ["study", "create", "--spec", "no.yaml", "--db", str(p.db)], 2, ("no.yaml",)),
    (
        "unknown YAML key",
        lambda p: ["study", "create", "--spec", p.write("s.yaml", "name: x\nmodle: {id: demo}\n"), "--db", str(p.db)],
        2,
        ("s.yaml:2", "modle"),
    ),
    (
        "no YAML",
        lambda p: ["study", "create", "--spec", p.write("s.yaml", "name: [\n"), "--db", str(p.db)],
        2,
        ("s.yaml",),
    ),
    ("name taken", lambda p: p.create(name="new"), 2, ("new", "already")),
    ("no such study to run", lambda p: ["study", "run", "nwe", "--db", str(p.db)], 2, ("nwe", "new")),
    ("no such study to show", lambda p: ["study", "show", "absent", "--db", str(p.db)], 2, ("absent",)),
    ("no such study to delete", lambda p: ["study", "delete", "absent", "--yes", "--db", str(p.db)], 2, ("absent",)),
    ("front of a study that never ran", lambda p: ["study", "front", "new", "--db", str(p.db)], 2, ("new", "run")),
    (
        "export of a study that never ran",
        lambda p: ["profile", "export", "new", "--knee", "-o", str(p.folder / "o.yaml"), "--db", str(p.db)],
        2,
        ("new", "run"),
    ),
    (
        "two choices",
        lambda p: ["profile", "export", "new", "--knee", "--trial", "1", "-o", "o.yaml", "--db", str(p.db)],
        2,
        ("exactly one",),
    ),
    (
        "export over a file",
        lambda p: ["profile", "export", "new", "--knee", "-o", str(p.profile), "--db", str(p.db)],
        2,
        ("profile.yaml", "--force"),
    ),
    ("no such profile", lambda p: verify(p, "no.yaml"), 2, ("no.yaml",)),
    ("profile with rising rates", lambda p: verify(p, p.changed_profile("0.5, 0.25", "0.5, 0.75")), 2, ("keep_rates must not rise", "layer 3", "layer 4")),
    ("profile with a rate above 1", lambda p: verify(p, p.changed_profile("[1.0", "[1.5")), 2, ("keep_rates",)),
    ("profile of a wrong length", lambda p: verify(p, p.changed_profile(", 0.25]", "]")), 2, ("7", "8")),
    ("profile with an unknown key", lambda p: verify(p, p.changed_profile("ranker:", "rankre:")), 2, ("rankre", "ranker")),
    ("profile of another model", lambda p: verify(p, str(p.profile), "--model", str(p.other)), 2, ("num_layers", "8", "9")),
    ("transfer to another depth", lambda p: verify(p, str(p.profile), "--model", str(p.other), "--transfer"), 2, ("8", "9", "depth")),
    ("cost of an unknown schedule", lambda p: ["cost", str(p.model), "--visual-tokens", "9", "--text-tokens", "9", "--schedule", "fastw:k=2,r=0.5"], 2, ("fastw", "fastv")),
    ("cost without a configuration", lambda p: ["cost", str(p.folder), "--visual-tokens", "9", "--text-tokens", "9"], 2, ("config.json",)),
    ("bench of no profile", lambda p: ["profile", "bench", "no.yaml"], 2, ("no.yaml",)),
    ("bench of another model", lambda p: ["profile", "bench", str(p.profile), "--model", str(p.other)], 2, ("num_layers", "8", "9")),
    ("bench of no model", lambda p: ["profile", "bench", str(p.profile), "--model", str(p.folder)], 2, ("config.json",)),
    ("bench with no image", lambda p: ["profile", "bench", str(p.profile), "--image", "no.png"], 2, ("no.png",)),
    ("bench with too few rounds", lambda p: ["profile", "bench", str(p.profile), "--rounds", "3"], 2, ("--rounds",)),
    ("bench in an unknown dtype", lambda p: ["profile", "bench", str(p.profile), "--dtype", "int8"], 2, ("--dtype", "bfloat16")),
    ("inspection of nothing", lambda p: ["model", "inspect", str(p.folder / "none")], 2, ("none", "config.json")),
    ("inspection with no image", lambda p: ["model", "inspect", str(p.model), "--image", "no.png"], 2, ("no.png",)),
    ("inspection with no picture", lambda p: ["model", "inspect", str(p.model), "--image", p.write("x.png", "text")], 2, ("x.png",)),
    (
        "inspection with an image, without a processor",
        lambda p: ["model", "inspect", str(p.configuration_alone()), "--image", p.picture()],
        2,
        ("alone", "cannot be loaded"),
    ),
    ("dashboard for everyone", lambda p: ["dashboard", "--host", "0.0.0.0", "--db", str(p.db)], 2, ("0.0.0.0", "--token-file", "127.0.0.1")),
    ("dashboard with no token", lambda p: ["dashboard", "--token-file", str(p.folder / "none"), "--db", str(p.db)], 2, ("none", "cannot be read")),
    ("dashboard with a token to guess", lambda p: ["dashboard", "--token-file", p.write("token", "1234"), "--db", str(p.db)], 2, ("token", "16")),
    ("dashboard on no port", lambda p: ["dashboard", "--port", "99999", "--db", str(p.db)], 2, ("--port", "65535")),
    ("dashboard on no host", lambda p: ["dashboard", "--host", "none.invalid", "--token-file", p.write("token", "0" * 32), "--db", str(p.db)], 2, ("none.invalid", "cannot listen")),
    ("dashboard on another's address", lambda p: ["dashboard", "--host", "192.0.2.1", "--token-file", p.write("token", "0" * 32), "--db", str(p.db)], 2, ("192.0.2.1", "cannot listen")),
    ("image behind a link", lambda p: p.create("--data", p.write("d.jsonl", p.row(image=p.link("link.png")))), 2, ("d.jsonl:2", "link.png", "allow_outside_images")),
    ("absolute image", lambda p: p.create("--data", p.write("d.jsonl", p.row(image=p.picture()))), 2, ("d.jsonl:2", "outside", "--allow-outside-images")),
    ("no name of a model to inspect", lambda p: ["model", "inspect", ""], 2, ("no model is named", "demo")),
    ("no name of a model to cost", lambda p: ["cost", "", "--visual-tokens", "9", "--text-tokens", "9"], 2, ("no model is named", "demo")),
    ("no name of a model to bench", lambda p: ["profile", "bench", str(p.profile), "--model", ""], 2, ("model",)),
    ("no name of a model to search", lambda p: p.create("--model", ""), 2, ("model.id",)),
    ("a limit that no database holds", lambda p: ["study", "list", "--limit", "1" + "0" * 30, "--db", str(p.db)], 2, ("--limit", "2147483647")),
    ("an offset that no database holds", lambda p: ["study", "list", "--offset", "1" + "0" * 30, "--db", str(p.db)], 2, ("--offset", "2147483647")),
    ("more tokens than floats hold", lambda p: ["cost", str(p.model), "--visual-tokens", "1" + "0" * 400, "--text-tokens", "9"], 2, ("--visual-tokens", "2147483647")),
    ("more text than floats hold", lambda p: ["cost", str(p.model), "--visual-tokens", "9", "--text-tokens", "1" + "0" * 400], 2, ("--text-tokens", "2147483647")),
    ("more samples than can be counted", lambda p: ["demo", "data", str(p.folder / "new"), "--search", "1" + "0" * 30], 2, ("--search", "2147483647")),
    ("image bomb", lambda p: p.create("--data", p.write("d.jsonl", p.row(image=p.huge_picture()))), 2, ("d.jsonl:2", "huge.png", "pixels")),
    ("image name too long", lambda p: p.create("--data", p.write("d.jsonl", p.row(image="x" * 999))), 2, ("d.jsonl:2", "too long")),
    ("PostScript as an image", lambda p: p.create("--data", p.write("d.jsonl", p.row(image=Path(p.write("x.png", "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")).name))), 2, ("d.jsonl:2", "x.png", "PNG")),
    ("manifest that is no text", lambda p: p.create("--data", p.write("d.jsonl", b"\xff\xfe{}")), 2, ("d.jsonl:1", "UTF-8")),
    ("manifest without rows", lambda p: p.create("--data", p.write("d.jsonl", "\n\n")), 2, ("d.jsonl", "empty")),
    ("manifest nested without end", lambda p: p.create("--data", p.write("d.jsonl", "[" * 100_000)), 2, ("d.jsonl:1", "JSON")),
    ("two rows with one id", lambda p: p.create("--data", p.write("d.jsonl", p.row(id="a"))), 2, ("d.jsonl:2", "line 1")),
    ("answer that is a number", lambda p: p.create("--data", p.write("d.jsonl", p.row(answers=[42]))), 2, ("d.jsonl:2", "answers")),
    ("spec nested too deep", lambda p: p.spec_text("name: " + "[" * 99), 2, ("s.yaml:1", "deeper than 32")),
    ("spec with a tag", lambda p: p.spec_text("name: !!python/object/apply:os.system [id]\n"), 2, ("s.yaml:1", "not valid YAML")),
    ("spec as large as data", lambda p: p.spec_text("#" * (2 << 20)), 2, ("s.yaml", "larger than 1024 KiB")),
    ("spec that is no text", lambda p: p.spec_text(b"\x80\x04\x95"), 2, ("s.yaml", "UTF-8")),
    ("spec with a key twice", lambda p: p.spec_text("name: a\nname: b\n"), 2, ("s.yaml:2", "twice")),
    ("spec with two documents", lambda p: p.spec_text("name: a\n---\nname: b\n"), 2, ("s.yaml:2", "not valid YAML")),
    ("spec without data", lambda p: p.spec(data={}), 2, ("s.yaml", "data.path")),
    ("spec with a list as its method", lambda p: p.spec(search={"method": ["vtw"]}), 2, ("s.yaml", "search.method must be a text")),
    ("spec of hours below 0", lambda p: p.spec(limits={"hours": -1}), 2, ("s.yaml", "limits.hours", "greater than 0")),
    ("spec of no samples", lambda p: p.spec(data={"path": str(p.manifest), "split": {"search": 0}}), 2, ("s.yaml", "data.split.search")),
    ("spec with a name of two lines", lambda p: p.spec(name="a\nb"), 2, ("s.yaml", "name")),
    ("spec with no number", lambda p: p.spec(goal={"max_drop": float("nan")}), 2, ("s.yaml", "goal.max_drop")),
    ("spec that trusts by a text", lambda p: p.spec(model={"id": str(p.model), "trust_remote_code": "perhaps"}), 2, ("s.yaml", "model.trust_remote_code")),
    ("pickle as a profile", lambda p: verify(p, p.write("x.yaml", b"\x80\x04\x95\x10.")), 2, ("x.yaml", "UTF-8")),
    ("profile with a tag", lambda p: verify(p, p.changed_profile("uniform", "!!python/name:os.system ''")), 2, ("changed.yaml", "not valid YAML")),
    ("profile with a rate that is no number", lambda p: verify(p, p.changed_profile("[1.0", "[.nan")), 2, ("changed.yaml", "keep_rates")),
    ("schedule with no number", lambda p: ["cost", str(p.model), "--visual-tokens", "9", "--text-tokens", "9", "--schedule", "fastv:k=x,r=0.5"], 2, ("fastv", "k")),
    ("cost of fewer than no tokens", lambda p: ["cost", str(p.model), "--visual-tokens", "-9", "--text-tokens", "9"], 2, ("--visual-tokens",)),
    ("a format that there is not", lambda p: ["study", "list", "--output", "xml", "--db", str(p.db)], 2, ("--output", "json")),
    ("PostgreSQL that is not there", lambda p: ["study", "list", "--db", "postgresql://me:hunter2@127.0.0.1:1/x"], 6, ("me:***@127.0.0.1:1/x",)),
    ("no database URL", lambda p: ["study", "list", "--db", "mysql://x/y"], 2, ("mysql",)),
    ("database in no folder", lambda p: ["study", "list", "--db", str(p.folder / "no" / "x.db")], 6, ("no/x.db",)),
    *(
        (f"no such database to {' '.join(words[:2])}", lambda p, words=words: [*words, "--db", str(p.folder / "typo.db")], 2, ("typo.db", "no such database"))
        for words in (
            ["study", "list"], ["study", "show", "new"], ["study", "front", "new"], ["study", "run", "new"], ["study", "delete", "new"],
            ["cache", "show"], ["cache", "explain", "new", "0"], ["cache", "prune", "--unused"], ["profile", "export", "new", "--knee", "-o", "o.yaml"], ["dashboard"],
        )
    ),
    ("file that is no database", lambda p: ["study", "list", "--db", p.write("x.db", b"text" * 999)], 6, ("x.db",)),
]  # fmt: skip


def contents(path: Path) -> list[str]:
    with sqlite3.connect(path) as connection:
        dump = list(connection.iterdump())
    connection.close()
    return dump


@pytest.mark.parametrize(
    ("arguments", "status", "said"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_one_line_and_nothing_changed(
    place: Place, capsys: pytest.CaptureFixture[str], arguments: Arguments, status: int, said: tuple[str, ...]
) -> None:
    given = arguments(place)
    before = contents(place.db)
    capsys.readouterr()
    assert run(given) == status
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.strip().splitlines()
    assert len(lines) == 1, shown.err
    for text in said:
        assert text in lines[0]
    assert "Traceback" not in shown.err
    assert "hunter2" not in shown.err
    assert contents(place.db) == before
    assert not (place.folder / "typo.db").exists()


def test_database_that_cannot_be_written(
    place: Place, capsys: pytest.CaptureFixture[str], open_folder: Path, request: pytest.FixtureRequest
) -> None:
    copy = open_folder / "copy.db"
    shutil.copy(place.db, copy)
    copy.chmod(0o444)
    open_folder.chmod(0o555)
    before = copy.read_bytes()
    request.getfixturevalue("unprivileged")
    assert run(["study", "list", "--db", str(copy)]) == 6
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"{copy}: it is read-only" in line
    assert copy.read_bytes() == before
    assert list(open_folder.iterdir()) == [copy]


def test_all_bad_rows_are_listed_at_once(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(
        json.dumps({"id": str(n), "question": "q", "answers": ["x"], "image": f"none-{n}.png"}) + "\n"
        for n in range(30)
    )
    assert run(place.create("--data", place.write("d.jsonl", rows))) == 2
    shown = capsys.readouterr().err
    assert "d.jsonl:1:" in shown
    assert "d.jsonl:20:" in shown
    assert "10 more" in shown


EVIL = """\
from pathlib import Path
from transformers import PretrainedConfig
Path(__file__).with_name("ran").touch()
class Evil(PretrainedConfig):
    model_type = "evil"
"""


@pytest.mark.parametrize(
    "command", [["model", "inspect"], ["cost", "--visual-tokens", "9", "--text-tokens", "9"]]
)
def test_code_that_comes_with_a_model_never_runs(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    (tmp_path / "evil.py").write_text(EVIL + f"Path({str(tmp_path / 'ran')!r}).touch()\n")
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}})
    )
    assert run([*command, str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "ran").exists()

"""What SECURITY.md promises of the code itself, and of files that strangers write."""

import ast
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from PIL import Image

from pruners.errors import ProfileError
from pruners.strict_yaml import MAX_DEPTH, parse
from searchsvc import verification
from studies import images
from studies.errors import DataError
from studies.images import check_image, locate, open_images
from studies.spec import StudySpec

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path for name in ("pruners", "studies", "db", "searchsvc") for path in (ROOT / name).rglob("*.py")
)

#: modules that run what they read, or go around SQLAlchemy
FORBIDDEN = {
    "pickle",
    "marshal",
    "shelve",
    "dill",
    "joblib",
    "cloudpickle",
    "sqlite3",
    "psycopg",
    "telnetlib",
}
#: SQLite's online backup is no SQL, and SQLAlchemy has none; and the type of its connections
EXCEPTED = {ROOT / path: {"sqlite3"} for path in ("db/backup.py", "db/engine.py")}
#: calls that run what they are given
RUNNING = {"eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text()))


def imported(path: Path) -> set[str]:
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def calls(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Every call's name and its constant keywords."""
    for node in nodes(path):
        if isinstance(node, ast.Call):
            given = {
                k.arg: k.value.value for k in node.keywords if k.arg and isinstance(k.value, ast.Constant)
            }
            yield ast.unparse(node.func), given


def test_the_scan_sees_what_it_looks_for(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text(
        "import pickle\nfrom sqlite3.dbapi2 import connect\ntorch.load(x, weights_only=False)\neval('1')\n"
    )
    assert imported(bad) == {"pickle", "sqlite3"}
    assert list(calls(bad)) == [("torch.load", {"weights_only": False}), ("eval", {})]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled_or_run(path: Path) -> None:
    assert imported(path) & FORBIDDEN == EXCEPTED.get(path, set())
    for name, given in calls(path):
        assert name not in RUNNING, name
        assert given.get("shell") is not True, name
        assert given.get("allow_pickle") is not True, name
        if name.endswith("torch.load"):
            assert given.get("weights_only") is True
        if name.endswith(".from_pretrained") and "AutoModel" in name:
            assert given.get("use_safetensors") is True


@pytest.mark.parametrize(
    "text",
    [
        "[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2),
        "[" * 200_000,
        "{a: " * 5_000,
        "- " * 5_000,
        "? " * 5_000,
    ],
    ids=["one too deep", "lists", "mappings", "items", "keys"],
)
def test_deep_yaml_is_refused(text: str) -> None:
    with pytest.raises(ProfileError, match=f"nested deeper than {MAX_DEPTH} levels") as caught:
        parse(text, "p.yaml")
    assert len(str(caught.value)) < 200


def test_yaml_that_is_just_deep_enough() -> None:
    assert parse("[" * MAX_DEPTH + "]" * MAX_DEPTH, "p.yaml").data == yaml.safe_load(
        "[" * MAX_DEPTH + "]" * MAX_DEPTH
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with an image, and one beside it."""
    folder = tmp_path / "data"
    folder.mkdir()
    for path in (folder / "in.png", tmp_path / "secret.png"):
        Image.new("RGB", (4, 4)).save(path)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "near.png").symlink_to("in.png")
    (folder / "up").symlink_to(tmp_path)
    (folder / "circle.png").symlink_to("circle.png")
    return folder


@pytest.mark.parametrize("name", ["in.png", "./in.png", "near.png", "up/../in.png"])
def test_images_inside_the_folder(data: Path, name: str) -> None:
    assert check_image(locate(data, name)) == check_image(data / "in.png")


@pytest.mark.parametrize(
    "name", ["../secret.png", "link.png", "up/secret.png", "up/data/../secret.png", "a/../../secret.png"]
)
def test_images_outside_only_where_they_are_allowed(data: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"outside the manifest's folder.*allow_outside_images"):
        locate(data, name)
    if not name.startswith("a/"):
        assert locate(data, name, anywhere=True).is_file()


def test_an_absolute_path_likewise(data: Path) -> None:
    secret = str(data.parent / "secret.png")
    with pytest.raises(DataError, match="outside"):
        locate(data, secret)
    assert str(locate(data, secret, anywhere=True)) == secret


@pytest.mark.parametrize("name", ["circle.png", "nul\0.png", "x" * 300 + ".png", "up/up/up/none.png", "."])
@pytest.mark.parametrize("anywhere", [False, True])
def test_what_is_no_image_path_is_one_line(data: Path, name: str, anywhere: bool) -> None:
    with pytest.raises(DataError) as caught:
        check_image(locate(data, name, anywhere=anywhere))
    assert "\n" not in str(caught.value)


def test_a_bomb_is_refused_when_it_is_checked_and_when_it_is_opened(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 15)
    for limit in (15, 7):  # PIL warns above the limit, and raises above twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DataError, match=f"more than {limit} pixels"):
            check_image(data / "in.png")
        # here warnings are errors, elsewhere they are not
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(DataError, match="cannot be opened any more"):
                open_images([data / "in.png"])


def test_only_formats_that_need_no_other_program(data: Path) -> None:
    """An EPS file would have PIL start Ghostscript on a stranger's PostScript."""
    made = io.BytesIO()
    Image.new("RGB", (4, 4)).save(made, "EPS")
    (data / "eps.png").write_bytes(made.getvalue())
    with pytest.raises(DataError, match="not an image of a kind that is read"):
        check_image(data / "eps.png")
    with pytest.raises(DataError, match="cannot identify image file"):
        open_images([data / "eps.png"])
    Image.init()
    assert set(images.FORMATS) <= set(Image.OPEN)


def test_other_data_is_not_trusted_as_the_study_s_own_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[StudySpec] = []
    monkeypatch.setattr(verification, "read_test_subject", seen.append)
    monkeypatch.setattr(verification, "read_subject", seen.append)
    data = {"path": "own.jsonl", "allow_outside_images": True}
    spec = StudySpec.parse({"name": "s", "model": {"id": "m"}, "data": data, "search": {"method": "vtw"}}, "a test")  # fmt: skip
    verification._read(spec, Path("other.jsonl"), None, False)
    verification._read(spec, None, "n", False)
    assert [(each.data.path, each.data.allow_outside_images) for each in seen] == [
        ("other.jsonl", False),
        ("own.jsonl", True),
    ]

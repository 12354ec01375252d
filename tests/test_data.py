import json
import shutil
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image
from tiny_vlm import write_images

from studies.data import read_manifest, split
from studies.errors import DataError, MetricError


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "images", 4)
    return tmp_path


def row(number=0, **changes):
    """A good row; a change to None takes the key out."""
    good = {
        "id": f"r{number}",
        "image": f"images/{number % 4}.png",
        "question": "what digit",
        "answers": ["1"],
    }
    return {key: value for key, value in {**good, **changes}.items() if value is not None}


def write(folder: Path, *rows: dict | str | bytes) -> Path:
    lines = [
        line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
        for line in rows
    ]
    path = folder / "manifest.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def problems(folder: Path, *rows: dict | str | bytes) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        read_manifest(write(folder, *rows))
    return caught.value.problems


def test_reads_rows_in_order(folder):
    rows = [row(0, kind="count", split="search"), row(1, image=None, images=["images/1.png", "images/2.png"])]
    dataset = read_manifest(write(folder, *rows))
    first, second = dataset.samples
    assert (first.id, first.question, first.answers, first.kind, first.split) == (
        "r0",
        "what digit",
        ("1",),
        "count",
        "search",
    )
    assert first.images == (folder / "images/0.png",)
    assert len(second.images) == 2
    assert second.split is None
    assert dataset.metric == "exact_match"
    assert len(dataset) == 2


def test_blank_lines_and_a_byte_order_mark_are_no_rows(folder):
    path = write(folder, b"\xef\xbb\xbf" + json.dumps(row(0)).encode(), "", "  ", json.dumps(row(1)) + "\r")
    assert [sample.id for sample in read_manifest(path).samples] == ["r0", "r1"]


BAD_ROWS = {
    "bad JSON": ('{"id": "a",', "JSON", "one JSON object per line"),
    "no object": ("[1]", "JSON", "holds a list"),
    "not UTF-8": (b'{"id": "\xff"}', "text", "byte 9 is not UTF-8"),
    "no id": (row(id=None), "id", "is missing"),
    "number as id": (row(id=7), "id", "must be a text"),
    "no question": (row(question=None), "question", "is missing"),
    "blank question": (row(question="  "), "question", "not empty"),
    "half a surrogate pair": (row(question="\ud800"), "question", "must be a text"),
    "no image": (row(image=None), "image", "is missing"),
    "image and images": (row(images=["images/0.png"]), "images", "keep one"),
    "empty images": (row(image=None, images=[]), "images", "must be a list"),
    "image not there": (row(image="images/9.png"), "image", "there is no file"),
    "image is a folder": (row(image="images"), "image", "there is no file"),
    "image above": (row(image="../secret.png"), "image", "outside the manifest's folder"),
    "image above, hidden": (row(image="images/../../secret.png"), "image", "outside the manifest's folder"),
    "absolute image": (row(image="/etc/passwd"), "image", "outside the manifest's folder"),
    "no answers": (row(answers=None), "answers", "is missing"),
    "empty answers": (row(answers=[]), "answers", "must be a list"),
    "blank answer": (row(answers=["1", " "]), "answers", "must be a list"),
    "text as answers": (row(answers="1"), "answers", "must be a list"),
    "unknown metric": (row(metric="exact_mach"), "metric", "did you mean 'exact_match'"),
    "metric is a list": (row(metric=["choice"]), "metric", "unknown metric"),
    "choice without choices": (row(metric="choice"), "choices", "is missing"),
    "choices lack the answer": (row(choices=["2", "3"]), "choices", "lack the answer '1'"),
    "one choice": (row(choices=["1"]), "choices", "at least two"),
    "twice the same choice": (row(choices=["1", "1"]), "choices", "at least two"),
    "unknown key": (row(answer="1"), "answer", "unknown key (did you mean 'answers'?)"),
    "unknown split": (row(split="train"), "split", '"search" or "test"'),
    "blank kind": (row(kind=""), "kind", "must be a text"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_named_by_file_line_and_key(folder, case):
    (folder.parent / "secret.png").write_bytes((folder / "images/0.png").read_bytes())
    bad, key, what = BAD_ROWS[case]
    found = problems(folder, row(1), bad)
    assert len(found) == 1, found
    assert found[0].startswith(f"{folder / 'manifest.jsonl'}:2: {key}: ")
    assert what in found[0]
    assert "\n" not in found[0]


def test_all_problems_of_all_rows_are_reported_at_once(folder):
    found = problems(folder, row(0, question=None, answers=[]), row(1), "{", row(2, image="images/8.png"))
    assert [problem.split(": ")[0].rsplit(":", 1)[1] for problem in found] == ["1", "1", "3", "4"]


def test_a_second_row_of_the_same_id_names_the_first(folder):
    assert problems(folder, row(0), row(1), row(0))[0].endswith("line 1; give every row its own")


def test_a_message_lists_twenty_problems_and_counts_the_rest(folder):
    with pytest.raises(DataError) as caught:
        read_manifest(write(folder, *[row(number, answers=[]) for number in range(33)]))
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "... and 13 more of 33 problems"
    assert len(caught.value.problems) == 33


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims this size and holds no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda good: b"no image at all", "is not an image"),
        (lambda good: b"", "is not an image"),
        (lambda good: good[: len(good) // 2], "damaged or cut off"),
        (lambda good: png_of(10_000, 10_000), "more than 89,478,485 pixels"),
        (lambda good: png_of(100_000, 100_000), "more than 89,478,485 pixels"),
    ],
    ids=["text", "empty", "truncated", "over the limit", "bomb"],
)
def test_an_image_that_cannot_be_used_is_a_problem_of_its_row(folder, change, what):
    image = folder / "images/0.png"
    image.write_bytes(change(image.read_bytes()))
    (found,) = problems(folder, row(0), row(1))
    assert f"{folder / 'manifest.jsonl'}:1: image: {image} " in found
    assert what in found


def test_a_truncated_jpeg_is_found(folder):
    image = folder / "images/0.jpg"
    Image.effect_noise((64, 64), 90).save(image)
    image.write_bytes(image.read_bytes()[:-500])
    assert "damaged or cut off" in problems(folder, row(0, image="images/0.jpg"))[0]


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda path: None, "there is no such file"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_text(""), "the manifest is empty"),
        (lambda path: path.write_text("\n \n"), "the manifest is empty"),
    ],
)
def test_a_manifest_that_is_none(tmp_path, make, what):
    path = tmp_path / "manifest.jsonl"
    make(path)
    with pytest.raises(DataError, match=what):
        read_manifest(path)


def test_a_metric_for_all_rows_overrides_theirs_and_says_what_they_lack(folder):
    assert read_manifest(write(folder, row(0, answers=None)), metric="fidelity").metric == "fidelity"
    path = write(folder, row(0, metric="choice", choices=["1", "2"]), row(1))
    assert {sample.metric for sample in read_manifest(path, metric="exact_match").samples} == {"exact_match"}
    with pytest.raises(DataError, match=r"different metrics .choice in 1 rows, exact_match in 1 rows."):
        read_manifest(path)
    with pytest.raises(DataError, match="2: choices: is missing"):
        read_manifest(path, metric="choice")
    with pytest.raises(MetricError, match="did you mean 'fidelity'"):
        read_manifest(path, metric="fidelty")


def test_the_hash_covers_rows_and_image_bytes_and_not_the_place(folder, tmp_path_factory):
    path = write(folder, row(0), row(1))
    original = read_manifest(path).sha256
    moved = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(folder, moved)
    assert read_manifest(moved / path.name).sha256 == original
    assert read_manifest(path, metric="fidelity").sha256 == original

    assert read_manifest(write(folder, row(1), row(0))).sha256 != original
    assert read_manifest(write(folder, row(0, question="what colour"), row(1))).sha256 != original
    write_images(folder / "images", 1, seed=5)
    assert read_manifest(write(folder, row(0), row(1))).sha256 != original


def many(folder, count, **fields):
    write_images(folder / "images", count)
    rows = [row(number, **fields, image=f"images/{number}.png") for number in range(count)]
    return read_manifest(write(folder, *rows))


def ids(dataset):
    return [sample.id for sample in dataset.samples]


def test_a_split_is_disjoint_seeded_and_in_manifest_order(tmp_path):
    dataset = many(tmp_path, 30)
    search, test = split(dataset, 10, 15, seed=0)
    assert (len(search), len(test)) == (10, 15)
    assert not set(ids(search)) & set(ids(test))
    assert ids(search) == [name for name in ids(dataset) if name in ids(search)] != ids(dataset)[:10]
    assert ids(split(dataset, 10, 15, seed=0)[0]) == ids(search)
    assert ids(split(dataset, 10, 15, seed=1)[0]) != ids(search)
    assert set(ids(split(dataset, 4, 15, seed=0)[0])) < set(ids(search))
    assert search.sha256 != dataset.sha256


def test_declared_splits_are_kept(tmp_path):
    write_images(tmp_path / "images", 12)
    rows = [
        row(number, image=f"images/{number}.png", split="search" if number % 3 else "test")
        for number in range(12)
    ]
    dataset = read_manifest(write(tmp_path, *rows))
    search, test = split(dataset, None, None, seed=0)
    assert (len(search), len(test)) == (8, 4)
    search, test = split(dataset, 5, 3, seed=0)
    assert {sample.split for sample in search.samples} == {"search"}
    assert {sample.split for sample in test.samples} == {"test"}
    assert (len(search), len(test)) == (5, 3)


def test_rows_that_share_an_image_never_stand_on_both_sides(folder):
    rows = [row(number, question=f"what digit {number}") for number in range(40)]
    search, test = split(read_manifest(write(folder, *rows)), 3, 5, seed=0)
    assert not {s.image_sha256 for s in search.samples} & {s.image_sha256 for s in test.samples}


def test_splits_that_cannot_be(folder):
    plain = read_manifest(write(folder, row(0), row(1), row(2)))
    with pytest.raises(DataError, match="say how many samples"):
        split(plain, None, 1, seed=0)
    with pytest.raises(DataError, match="test cannot take 2 of 1 samples; ask for 1 to 1"):
        split(plain, 2, 2, seed=0)
    with pytest.raises(DataError, match="search cannot take 0 of 3"):
        split(plain, 0, 2, seed=0)
    with pytest.raises(DataError, match="only 1 of 2 rows have it"):
        split(read_manifest(write(folder, row(0, split="test"), row(1))), 1, 1, seed=0)
    with pytest.raises(DataError, match="test cannot take 0 of 0 samples; add rows"):
        split(
            read_manifest(write(folder, row(0, split="search"), row(1, split="search"))), None, None, seed=0
        )
    with pytest.raises(DataError, match="test sample 'r4' repeats search sample 'r0'"):
        split(read_manifest(write(folder, row(0, split="search"), row(4, split="test"))), None, None, seed=0)

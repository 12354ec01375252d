"""Held-out data: reads a JSONL manifest and divides it into what searches see and what they never see."""

import codecs
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from studies.errors import DataError
from studies.manifest import SPLITS, ManifestReader
from studies.metrics import make_metric
from studies.samples import Dataset, Sample

__all__ = ["Dataset", "Sample", "read_manifest", "split"]


def read_manifest(path: Path, metric: str | None = None, *, images_anywhere: bool = False) -> Dataset:
    """Reads a manifest: UTF-8, one JSON object per line; checks every row and decodes every image once.

    Keys: `id`, `question`, `image` or `images` (paths relative to the manifest's folder), `answers`;
    optionally `choices`, `metric`, `kind` and `split`. `metric` overrides the rows' own. Images lie in that
    folder, links followed, unless they may lie anywhere (`images_anywhere`).
    Raises DataError with all problems of all rows, each as `FILE:LINE: key: what is wrong, what to do`, and
    MetricError for an unknown `metric`.
    """
    if metric is not None:
        make_metric(metric)
    reader = ManifestReader(path, metric, images_anywhere)
    lines = _content(path).removeprefix(codecs.BOM_UTF8).split(b"\n")
    rows = [reader.read(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if reader.problems:
        raise DataError(*reader.problems)
    samples = tuple(sample for sample in rows if sample is not None)
    if not samples:
        raise DataError(f"{path}: the manifest is empty; write one JSON object per line")
    return Dataset(path=path, samples=samples, metric=metric or _common_metric(path, samples))


def _content(path: Path) -> bytes:
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name the JSONL manifest inside it")
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; name a JSONL manifest")
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def _common_metric(path: Path, samples: Sequence[Sample]) -> str:
    counts = Counter(sample.metric for sample in samples)
    if len(counts) > 1:
        found = ", ".join(f"{name} in {count} rows" for name, count in sorted(counts.items()))
        raise DataError(f"{path}: metric: rows name different metrics ({found}); name one for all of them")
    return samples[0].metric


def split(dataset: Dataset, search: int | None, test: int | None, seed: int) -> tuple[Dataset, Dataset]:
    """Two disjoint datasets of `search` and `test` samples (None: all declared ones), in manifest order.

    Rows that declare a split stay in it; a smaller number takes a seeded subset of them. Otherwise rows are
    dealt out by a seeded hash of their id, and no image is on both sides. With one seed, a smaller search set
    is part of a larger one. DataError when there are too few rows, when some declare a split and others do
    not, or when both sides ask the same about the same image.
    """
    declared = [sample for sample in dataset.samples if sample.split]
    if declared and len(declared) < len(dataset):
        raise DataError(
            f"{dataset.path}: split: only {len(declared)} of {len(dataset)} rows have it; all or none must"
        )
    deal = _declared if declared else _shuffled
    chosen = deal(dataset, {"search": search, "test": test}, seed)
    _check_apart(dataset, *chosen)
    first, second = (set(part) for part in chosen)
    return (
        dataset.only([sample for sample in dataset.samples if sample in first]),
        dataset.only([sample for sample in dataset.samples if sample in second]),
    )


def _order(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """By a hash of seed and id: the same on every machine, and adding rows leaves the others' order alone."""
    return sorted(samples, key=lambda sample: hashlib.sha256(f"{seed}\0{sample.id}".encode()).digest())


def _take(dataset: Dataset, name: str, rows: Sequence[Sample], count: int | None) -> list[Sample]:
    wanted = len(rows) if count is None else count
    if not 1 <= wanted <= len(rows):
        advice = f"ask for 1 to {len(rows)}" if rows else "add rows"
        raise DataError(
            f"{dataset.path}: split: {name} cannot take {wanted} of {len(rows)} samples; {advice}"
        )
    return list(rows[:wanted])


def _declared(dataset: Dataset, counts: dict[str, int | None], seed: int) -> list[list[Sample]]:
    rows = {name: [sample for sample in dataset.samples if sample.split == name] for name in SPLITS}
    return [_take(dataset, name, _order(rows[name], seed), counts[name]) for name in SPLITS]


def _shuffled(dataset: Dataset, counts: dict[str, int | None], seed: int) -> list[list[Sample]]:
    if None in counts.values():
        raise DataError(f"{dataset.path}: rows declare no split; say how many samples search and test take")
    rows = _order(dataset.samples, seed)
    search = _take(dataset, "search", rows, counts["search"])
    seen = {image for sample in search for image in sample.image_sha256}
    unseen = [sample for sample in rows[len(search) :] if seen.isdisjoint(sample.image_sha256)]
    return [search, _take(dataset, "test", unseen, counts["test"])]


def _check_apart(dataset: Dataset, search: Sequence[Sample], test: Sequence[Sample]) -> None:
    asked = {(sample.image_sha256, sample.question): sample.id for sample in search}
    for sample in test:
        twin = asked.get((sample.image_sha256, sample.question))
        if twin is not None:
            raise DataError(
                f"{dataset.path}: split: test sample {sample.id!r} repeats search sample {twin!r}; remove one"
            )

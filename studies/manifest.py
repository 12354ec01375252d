"""Rows of a JSONL manifest: one JSON object per line becomes one sample, or a list of what is wrong in it."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studies.errors import DataError, did_you_mean
from studies.images import check_image, locate
from studies.metrics import METRICS
from studies.samples import Sample

KEYS = ("id", "image", "images", "question", "answers", "choices", "metric", "kind", "split")
SPLITS = ("search", "test")
Report = Callable[[str, str], None]


@dataclass
class ManifestReader:
    """Reads the rows of one manifest and gathers problems as `FILE:LINE: key: what is wrong, what to do`."""

    path: Path
    #: The study's metric, or None where each row's own counts.
    metric: str | None = None
    #: Whether images may lie outside the manifest's folder.
    images_anywhere: bool = False
    problems: list[str] = field(default_factory=list)
    _seen: dict[str, int] = field(default_factory=dict)
    _hashes: dict[Path, str] = field(default_factory=dict)

    def read(self, line: int, content: bytes) -> Sample | None:
        """The sample in this line (from 1), or None when something is wrong with it."""
        found = len(self.problems)

        def report(key: str, problem: str) -> None:
            self.problems.append(f"{self.path}:{line}: {key}: {problem}")

        row = _parse(content, report)
        if row is None:
            return None
        self._number(row, line, report)
        sample = self._sample(row, report)
        return sample if len(self.problems) == found else None

    def _number(self, row: Mapping[str, Any], line: int, report: Report) -> None:
        name = row.get("id")
        if isinstance(name, str) and self._seen.setdefault(name, line) != line:
            report("id", f"{name!r} is already the id of line {self._seen[name]}; give every row its own")

    def _sample(self, row: Mapping[str, Any], report: Report) -> Sample:
        metric = _metric(row, self.metric, report)
        names = _image_names(row, report)
        images = [self._image(name, report) for name in names]
        answers = _answers(row, metric, report)
        return Sample(
            id=_text(row, "id", report),
            images=tuple(path for path, _ in images),
            image_sha256=tuple(sha256 for _, sha256 in images),
            question=_text(row, "question", report),
            answers=answers,
            choices=_choices(row, metric, answers, report),
            metric=metric,
            kind=_text(row, "kind", report) if "kind" in row else "",
            split=_split(row, report),
        )

    def _image(self, name: str, report: Report) -> tuple[Path, str]:
        try:
            path = locate(self.path.parent, name, anywhere=self.images_anywhere)
            if path not in self._hashes:
                self._hashes[path] = check_image(path)
        except DataError as error:
            report("image", str(error))
            return Path(name), ""
        return path, self._hashes[path]


def _parse(content: bytes, report: Report) -> dict[str, Any] | None:
    try:
        row = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        report("text", f"byte {error.start + 1} is not UTF-8; save the manifest as UTF-8")
        return None
    except (json.JSONDecodeError, RecursionError) as error:
        report("JSON", f"{error}; write one JSON object per line")
        return None
    if not isinstance(row, dict):
        report("JSON", f"the line holds a {type(row).__name__}; write one JSON object per line")
        return None
    for key in row.keys() - set(KEYS):
        report(key, f"unknown key{did_you_mean(key, KEYS)}")
    return row


def _text(row: Mapping[str, Any], key: str, report: Report) -> str:
    if key not in row:
        report(key, "is missing; add it to the row")
        return ""
    value = row[key]
    if not _is_text(value):
        report(key, f"must be a text that is not empty, not {_shown(value)}")
        return ""
    return str(value)


def _is_text(value: object) -> bool:
    """Whether it is a text with something in it, and no half of a surrogate pair (JSON can hold one)."""
    return isinstance(value, str) and bool(value.strip()) and not re.search("[\ud800-\udfff]", value)


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _texts(row: Mapping[str, Any], key: str, report: Report) -> tuple[str, ...]:
    values = row[key]
    if not isinstance(values, list) or not values or not all(_is_text(value) for value in values):
        report(key, f'must be a list of texts that are not empty, such as ["yes"], not {_shown(values)}')
        return ()
    return tuple(values)


def _image_names(row: Mapping[str, Any], report: Report) -> tuple[str, ...]:
    if "image" in row and "images" in row:
        report("images", "stands beside image; keep one of the two")
        return ()
    if "images" in row:
        return _texts(row, "images", report)
    name = _text(row, "image", report)
    return (name,) if name else ()


def _metric(row: Mapping[str, Any], chosen: str | None, report: Report) -> str:
    named = row.get("metric", chosen or "exact_match")
    if not isinstance(named, str) or named not in METRICS:
        report("metric", f"unknown metric {_shown(named)}{did_you_mean(str(named), METRICS)}")
        return chosen or "exact_match"
    return chosen or named


def _answers(row: Mapping[str, Any], metric: str, report: Report) -> tuple[str, ...]:
    if "answers" in row:
        return _texts(row, "answers", report)
    if METRICS[metric].reads != "reference":
        report("answers", f"is missing; {metric} needs the right answers as a list (fidelity needs none)")
    return ()


def _choices(
    row: Mapping[str, Any], metric: str, answers: tuple[str, ...], report: Report
) -> tuple[str, ...]:
    if "choices" not in row:
        if METRICS[metric].reads == "choices":
            report("choices", f"is missing; {metric} needs the texts to choose from")
        return ()
    choices = _texts(row, "choices", report)
    if len(set(choices)) < len(choices) or len(choices) == 1:
        report("choices", f"must be at least two different texts, not {_shown(list(choices))}")
    elif choices and answers and not set(choices) & set(answers):
        report("choices", f"lack the answer {answers[0]!r}; add it, spelled the same")
    return choices


def _split(row: Mapping[str, Any], report: Report) -> str | None:
    if "split" not in row:
        return None
    if row["split"] not in SPLITS:
        report("split", f'must be "search" or "test", not {_shown(row["split"])}')
        return None
    return str(row["split"])

"""Held-out samples: one image question with its right answers, and an ordered set of them with a hash."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One question about one or more images. Images are opened when they are needed, not before."""

    id: str
    #: Where the images lie now; no part of the sample's hash.
    images: tuple[Path, ...]
    #: The hash of each image file's bytes, in the same order.
    image_sha256: tuple[str, ...]
    question: str
    #: Right answers; empty only where the metric needs none.
    answers: tuple[str, ...] = ()
    #: What `choice` ranks by likelihood; empty for free answers.
    choices: tuple[str, ...] = ()
    metric: str = "exact_match"
    #: A kind of question that reports may group by, or "".
    kind: str = ""
    #: The split that the row declares ("search", "test"), or None.
    split: str | None = None

    @cached_property
    def sha256(self) -> str:
        """Hash of the row and its images' bytes, wherever they lie; the metric is a study's."""
        row = [self.id, self.image_sha256, self.question, self.answers, self.choices, self.kind, self.split]
        return hashlib.sha256(json.dumps(row).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Samples in the order of their rows, and the manifest that they came from."""

    path: Path
    samples: tuple[Sample, ...]
    #: The one metric that these samples are scored by.
    metric: str

    @cached_property
    def sha256(self) -> str:
        """Hash of the samples' hashes in order: any row, image or order changes it, the folder does not."""
        return hashlib.sha256("\n".join(sample.sha256 for sample in self.samples).encode()).hexdigest()

    def only(self, samples: Sequence[Sample]) -> "Dataset":
        """The same dataset with these of its samples."""
        return Dataset(path=self.path, samples=tuple(samples), metric=self.metric)

    def __len__(self) -> int:
        return len(self.samples)

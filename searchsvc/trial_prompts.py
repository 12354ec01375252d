"""A prompt to try a model with: one image, given or made up, and a plain question."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from studies.images import check_image
from studies.samples import Sample

#: Columns and rows of the image that is made up where none is given.
SYNTHETIC = (640, 480)

_QUESTION = "Describe the image in detail, and then say what is unusual about it."


@contextmanager
def trial_sample(image: Path | None) -> Iterator[Sample]:
    """Yield a sample that asks about `image`, or about seeded noise; its file lives as long as the block.

    Raises:
        DataError: `image` is no image that can be read.
    """
    with TemporaryDirectory() as folder:
        path = image or _noise(Path(folder) / "noise.png")
        yield Sample(
            id=str(image or "the synthetic image"),
            images=(path,),
            image_sha256=(check_image(path),),
            question=_QUESTION,
        )


def shown_name(image: Path | None) -> str:
    """Return what a report calls the image."""
    return "synthetic, {} x {}".format(*SYNTHETIC) if image is None else str(image)


def _noise(path: Path) -> Path:
    import numpy as np
    from PIL import Image

    columns, rows = SYNTHETIC
    pixels = np.random.default_rng(0).integers(0, 256, (rows, columns, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path

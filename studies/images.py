"""Image files of a manifest: where they may lie, and whether they can be used."""

import hashlib
import io
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from studies.errors import DataError

#: What is read. PIL knows more, some by way of other programs (EPS: Ghostscript).
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


def locate(folder: Path, name: str, *, anywhere: bool = False) -> Path:
    """The path of image `name` inside `folder`.

    DataError when it is absolute or leads out of the folder, also by a link, unless it may lie `anywhere`.
    """
    path = folder / name if anywhere else folder / os.path.normpath(name)
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # too long, links in a circle, a null character
        raise DataError(f"{name!r} is no path ({error}); correct it") from error
    if not anywhere and not inside:
        raise DataError(
            f"{name!r} lies outside the manifest's folder; name it relative to {folder}, or allow it with "
            "data.allow_outside_images (--allow-outside-images)"
        )
    return path


def check_image(path: Path) -> str:
    """Decodes the whole image once and returns the sha256 of the file's bytes.

    DataError when there is no such file, it is no image, it is cut off, or it has more pixels than
    `PIL.Image.MAX_IMAGE_PIXELS`, PIL's guard against small files that unpack to gigabytes.
    """
    try:
        if not path.is_file():
            raise DataError(f"there is no file {path}; check the name and that the images were copied")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}); check its name and permissions"
        ) from error
    _decode(path, content)
    return hashlib.sha256(content).hexdigest()


def _decode(path: Path, content: bytes) -> None:
    try:
        with _refusing_bombs(), Image.open(io.BytesIO(content), formats=FORMATS) as image:
            image.load()
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = f"{Image.MAX_IMAGE_PIXELS:,}"
        raise DataError(f"{path} has more than {limit} pixels; scale it down") from error
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise DataError(f"{path} is not an image of a kind that is read ({known}); convert it") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError) as error:
        raise DataError(f"{path} is damaged or cut off ({error}); copy it again") from error


@contextmanager
def _refusing_bombs() -> Iterator[None]:
    """Raise where PIL would only warn that a small file unpacks to gigabytes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def open_images(paths: Iterable[Path]) -> list[Image.Image]:
    """The images, decoded and in RGB; DataError when one has gone bad since it was checked."""
    images = []
    for path in paths:
        try:
            with _refusing_bombs(), Image.open(path, formats=FORMATS) as image:
                images.append(image.convert("RGB"))
        except (OSError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise DataError(f"{path} cannot be opened any more ({error}); restore it") from error
    return images

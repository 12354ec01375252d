"""Image files of a manifest: where they may lie, and whether they can be used."""

import hashlib
import io
import os
import warnings
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from studies.errors import DataError


def locate(folder: Path, name: str) -> Path:
    """The path of image `name` inside `folder`; DataError when it is absolute or leads out of the folder.

    Only the text of the path is looked at: links that the user made inside the folder may lead anywhere.
    """
    relative = os.path.normpath(name)
    if Path(name).is_absolute() or relative == os.pardir or relative.startswith(os.pardir + os.sep):
        raise DataError(f"{name!r} lies outside the manifest's folder; name it relative to {folder}")
    return folder / relative


def check_image(path: Path) -> str:
    """Decodes the whole image once and returns the sha256 of the file's bytes.

    DataError when there is no such file, it is no image, it is cut off, or it has more pixels than
    `PIL.Image.MAX_IMAGE_PIXELS`, PIL's guard against small files that unpack to gigabytes.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}; check the name and that the images were copied")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        _decode(path, content)
    return hashlib.sha256(content).hexdigest()


def _decode(path: Path, content: bytes) -> None:
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = f"{Image.MAX_IMAGE_PIXELS:,}"
        raise DataError(f"{path} has more than {limit} pixels; scale it down") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is not an image that PIL can read; convert it to PNG or JPEG") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError) as error:
        raise DataError(f"{path} is damaged or cut off ({error}); copy it again") from error


def open_images(paths: Iterable[Path]) -> list[Image.Image]:
    """The images, decoded and in RGB; DataError when one has gone bad since it was checked."""
    images = []
    for path in paths:
        try:
            with Image.open(path) as image:
                images.append(image.convert("RGB"))
        except OSError as error:
            raise DataError(f"{path} cannot be opened any more ({error}); restore it") from error
    return images

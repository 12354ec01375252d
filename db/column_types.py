"""Column types that keep what must not get lost: time zones, exact floats, and the absence of NaN."""

import json
import math
import struct
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Double, LargeBinary
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DontWrapMixin
from sqlalchemy.types import TypeDecorator

from db.errors import InvalidValue


class UnstorableError(InvalidValue, DontWrapMixin):
    """An `InvalidValue` that SQLAlchemy passes on as it is."""


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC; one without a time zone is refused."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise UnstorableError(f"a time needs a time zone: {value.isoformat()}")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class FiniteFloat(TypeDecorator[float]):
    """A float64; NaN and infinities are refused."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: float | None, _dialect: Dialect) -> float | None:
        if value is not None:
            _refuse_not_finite(value, "number")
        return value


class FiniteJson(TypeDecorator[Any]):
    """A JSON value; NaN and infinities in it are refused, None is NULL."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def process_bind_param(self, value: Any, _dialect: Dialect) -> Any:
        _refuse_not_finite(value, "value")
        return value


def pack_floats(values: Sequence[float]) -> bytes:
    """Return what is stored of floats."""
    return zlib.compress(struct.pack(f"<{len(values)}d", *values))


def pack_list(values: Sequence[Any]) -> bytes:
    """Return what is stored of texts or whole numbers."""
    return zlib.compress(json.dumps(list(values)).encode())


class PackedFloats(TypeDecorator[tuple[float, ...]]):
    """Floats as deflated little-endian float64: what is read is, bit for bit, what was written."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Sequence[float] | None, _dialect: Dialect) -> bytes | None:
        if value is None:
            return None
        _refuse_not_finite(value, "scores")
        return pack_floats(value)

    def process_result_value(self, value: bytes | None, _dialect: Dialect) -> tuple[float, ...] | None:
        if value is None:
            return None
        data = zlib.decompress(value)
        return struct.unpack(f"<{len(data) // 8}d", data)


class PackedList(TypeDecorator[tuple[Any, ...]]):
    """Short texts or whole numbers (a prediction, a number of tokens per sample) as a deflated JSON list."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Sequence[Any] | None, _dialect: Dialect) -> bytes | None:
        return None if value is None else pack_list(value)

    def process_result_value(self, value: bytes | None, _dialect: Dialect) -> tuple[Any, ...] | None:
        return None if value is None else tuple(json.loads(zlib.decompress(value)))


def _refuse_not_finite(value: Any, place: str) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UnstorableError(f"{place} is {value}: only finite numbers are stored")
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_not_finite(item, f"{place}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _refuse_not_finite(item, f"{place}[{index}]")

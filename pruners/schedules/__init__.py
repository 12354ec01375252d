"""Schedules by name, and the short text that names one on a command line: `fastv:k=2,r=0.5`."""

from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any

from pruners.errors import ProfileError, suggestion
from pruners.schedules.base import Schedule
from pruners.schedules.fastv import FastV
from pruners.schedules.p_sigmoid import PSigmoid
from pruners.schedules.pdrop import PyramidDrop
from pruners.schedules.table import Table
from pruners.schedules.vtw import VTW

__all__ = ["SCHEDULES", "VTW", "FastV", "PSigmoid", "PyramidDrop", "Schedule", "Table", "parse_schedule"]

SCHEDULES: dict[str, type[Schedule]] = {cls.name: cls for cls in (FastV, PyramidDrop, VTW, PSigmoid, Table)}


def parse_schedule(spec: str) -> Schedule:
    """The schedule that a spec names: a name, then `key=value` pairs, lists joined by slashes.

    >>> parse_schedule("pdrop:stages=8/16/24,ratios=0.5/0.25/0.125")
    PyramidDrop(stages=(8, 16, 24), ratios=(0.5, 0.25, 0.125))

    Raises:
        ProfileError: an unknown name or key, a missing key, or a value that is none or out of range.
    """
    name, _, options = (part.strip() for part in spec.partition(":"))
    if name not in SCHEDULES:
        raise ProfileError(f"unknown schedule '{name}'{suggestion(name, SCHEDULES)}")
    schedule = SCHEDULES[name]
    known = {field.name: field for field in fields(schedule)}  # type: ignore[arg-type]
    given = dict[str, Any]()
    for option in filter(None, options.split(",")):
        key, equals, text = (part.strip() for part in option.partition("="))
        if not equals:
            raise ProfileError(
                f"{name}: '{option.strip()}' is not key=value; write it like {schedule.example}"
            )
        if key not in known:
            raise ProfileError(f"{name}: unknown key '{key}'{suggestion(key, known)}")
        if key in given:
            raise ProfileError(f"{name}: {key} is given twice")
        given[key] = _read(name, key, text, known[key].type)
    missing = [key for key, field in known.items() if key not in given and field.default is MISSING]
    if missing:
        raise ProfileError(f"{name}: {' and '.join(missing)} missing; write it like {schedule.example}")
    return schedule(**given)


def _list_of(read: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    return lambda text: tuple(read(part) for part in text.split("/"))


#: how the text of a parameter is read, by the annotation of the schedule's field, and what it is called
_READERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    int: (int, "a whole number"),
    float: (float, "a number"),
    tuple[float, ...]: (_list_of(float), "numbers joined by '/'"),
    tuple[int, ...] | None: (_list_of(int), "whole numbers joined by '/'"),
}


def _read(name: str, key: str, text: str, annotation: Any) -> Any:
    read, kind = _READERS[annotation]
    try:
        return read(text)
    except ValueError:
        raise ProfileError(f"{name}: {key} must be {kind}, not '{text}'") from None

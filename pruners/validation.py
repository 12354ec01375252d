"""From a YAML document to a pydantic model; what does not fit is said in one line that helps to mend it."""

import re
import reprlib
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pruners.errors import ProfileError, suggestion
from pruners.strict_yaml import Document

_Model = TypeVar("_Model", bound=BaseModel)
_Keys = Sequence[str | int]

#: how a wrong value is shown: short, however large or nested it is
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxstring = 2, 3, 3, 60


def validate(model: type[_Model], document: Document, error: type[Exception] = ProfileError) -> _Model:
    """The document as a `model`; else `error` with file, line, key and remedy of the first fault.

    Of several faults an unknown key comes first: a misspelt key is also a missing one.
    """
    if not isinstance(document.data, dict):
        raise error(f"{document.source}: holds no keys; it must be a mapping such as 'name: value'")
    try:
        return model.model_validate(document.data)
    except ValidationError as reason:
        faults = reason.errors()
    first = min(faults, key=lambda fault: fault["type"] != "extra_forbidden")
    more = f" (the first of {len(faults)} faults)" if len(faults) > 1 else ""
    raise error(f"{_describe(model, document, first)}{more}")


def _describe(model: type[BaseModel], document: Document, fault: ErrorDetails) -> str:
    """`file:line: key what is wrong`."""
    path, line = document.find(fault["loc"])
    last = str(fault["loc"][-1]) if fault["loc"] else ""
    match fault["type"]:
        case "extra_forbidden":
            text = f"unknown key '{_join(path)}'{suggestion(last, _known_keys(model, fault['loc'][:-1]))}"
        case "missing":
            text = f"'{_join([*path, last])}' is missing"
        case "union_tag_not_found":
            text = f"'{_join([*path, 'type'])}' is missing"
        case "union_tag_invalid":
            tag, known = fault["ctx"]["tag"], fault["ctx"]["expected_tags"].replace("'", "").split(", ")
            text = f"{_join(path)}.type '{tag}' is not known{suggestion(tag, known)}"
        case "value_error":
            path, rule = _own_rule(document, path, str(fault["ctx"]["error"]))
            line = document.find(path)[1]
            text = f"{_join(path)}{rule}"
        case _:
            rule = re.sub("^[A-Z][a-z]+ should", "must", fault["msg"]).replace("valid tuple", "list")
            text = f"{_join(path)} {rule}, not {_SHORT.repr(fault['input'])}"
    return f"{document.source}:{line}: {text}" if line else f"{document.source}: {text}"


def _own_rule(document: Document, path: list[str | int], message: str) -> tuple[list[str | int], str]:
    """Our own validators' messages begin with the key that they are about: put its full path in its place."""
    key, _, rest = message.partition(" ")
    inner = key.split(".")
    owner = path[:-1] if path and path[-1] == inner[0] else path
    found, _ = document.find([*owner, *inner])
    if found == [*owner, *inner]:
        return found, f" {rest}"
    return path, f": {message}" if path else message


def _join(path: _Keys) -> str:
    """schedule.keep_rates[3]"""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


def _known_keys(model: type[BaseModel], loc: _Keys) -> list[str]:
    """The keys that may stand at this place of the document."""
    candidates = [model]
    for part in loc:
        inner = [
            found
            for candidate in candidates
            for name, field in candidate.model_fields.items()
            if part in (name, field.alias)
            for found in _models_in(field.annotation)
        ]
        tagged = [
            found
            for found in candidates
            if "type" in found.model_fields and found.model_fields["type"].default == part
        ]
        candidates = inner or tagged or candidates
    return [field.alias or name for candidate in candidates for name, field in candidate.model_fields.items()]


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    """Every model that a type annotation mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)

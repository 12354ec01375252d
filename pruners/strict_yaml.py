"""YAML that reads back as it was written: safe types only, stable order, and an error's line.

Stricter than YAML 1.1, where of two equal keys the last wins silently: they are refused. Closer to what
people mean: 1e-3 is a number, 2026-01-31 is text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pruners.errors import ProfileError

#: larger files are refused unread; no profile comes near it
MAX_BYTES = 1 << 20
#: lists and mappings in one another; specs and profiles have a handful
MAX_DEPTH = 32

_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"
_FLOAT = "tag:yaml.org,2002:float"
_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_NUMBER = re.compile(
    r"^(?:[-+]?(?:\.[0-9]+|[0-9]+\.?[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)


@dataclass(frozen=True, kw_only=True)
class Document:
    """What a YAML text says, and where it says it."""

    #: the file's name for error messages
    source: str
    data: Any
    node: yaml.Node | None

    def find(self, keys: Sequence[str | int]) -> tuple[list[str | int], int | None]:
        """Follow keys and list indices; returns those that are there, and the line (from 1) of the last.

        A key that is not there is skipped: pydantic names the chosen member of a union between the keys.
        """
        node, line, path = self.node, None, list[str | int]()
        for key in keys:
            if isinstance(node, yaml.MappingNode):
                inner = next((pair for pair in node.value if pair[0].value == str(key)), None)
            elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
                inner = (node.value[key], node.value[key])
            else:
                inner = None
            if inner is not None:
                line, node = inner[0].start_mark.line + 1, inner[1]
                path.append(key)
        return path, line


def read_file(path: Path, error: type[Exception] = ProfileError) -> str:
    """The text of a YAML file; `error` is raised where there is none, or one larger than `MAX_BYTES`."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise error(f"{path}: larger than {MAX_BYTES >> 10} KiB, so this is not the file that is meant")
        return content.decode("utf-8")
    except OSError as reason:
        raise error(f"{path}: cannot be read: {reason.strerror or reason}") from reason
    except UnicodeDecodeError as reason:
        raise error(f"{path}: not UTF-8 text (byte {reason.start})") from reason


def parse(text: str, source: str, error: type[Exception] = ProfileError) -> Document:
    """Read one YAML document; whatever is wrong with it is raised as `error`, in one line."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        data = loader.construct_document(node) if node is not None else None
    except yaml.MarkedYAMLError as reason:
        mark = reason.problem_mark or reason.context_mark
        line = f"{mark.line + 1}:" if mark else ""
        raise error(f"{source}:{line} not valid YAML: {reason.problem or reason.context}") from reason
    except Exception as reason:  # PyYAML lets any error out for a tag that its value does not fit
        first = str(reason).strip().split("\n")[0]
        raise error(f"{source}: not valid YAML: {first or type(reason).__name__}") from reason
    return Document(source=source, data=data, node=node)


def dump(data: dict[str, Any]) -> str:
    """Block mappings in the order of `data`, each list in flow style, no aliases, a newline at the end."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, one that is no text, and what is nested too deep."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        if self._depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {MAX_DEPTH} levels", mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set[str]()
        for key, _ in node.value:
            problem = None
            if key.tag not in (_TEXT, _MERGE):
                shown = key.value if isinstance(key, yaml.ScalarNode) else "..."
                problem = f"key '{shown}' must be text; put it in quotes"
            elif key.value in seen:
                problem = f"key '{key.value}' is given twice"
            if problem:
                raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return node


class _Dumper(yaml.SafeDumper):
    """SafeDumper that writes every list in flow style, and repeats what occurs twice."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _represent_list(dumper: yaml.SafeDumper, values: list[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    """Control characters and odd line breaks stand escaped in double quotes; other styles would fold them."""
    return dumper.represent_scalar(_TEXT, text, style=None if text.isprintable() else '"')


def _agree_on_plain_text() -> None:
    """Loader and dumper must see the same plain text as a number, or what one writes the other misreads.

    The loader has no type for dates; the dumper quotes them, for the sake of other readers.
    """
    _Dumper.add_representer(list, _represent_list)
    _Dumper.add_representer(str, _represent_text)
    for cls, dropped in ((_Loader, {_FLOAT, _TIMESTAMP}), (_Dumper, {_FLOAT})):
        cls.yaml_implicit_resolvers = {
            first: [(tag, form) for tag, form in forms if tag not in dropped]
            for first, forms in cls.yaml_implicit_resolvers.items()
        }
        cls.add_implicit_resolver(_FLOAT, _NUMBER, list("-+0123456789."))


_agree_on_plain_text()

"""How commands print: data on stdout in the asked format, messages on stderr."""

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

#: Version of the JSON and YAML that reading commands print.
SCHEMA_VERSION = 1
#: Counts that are given are no larger: databases and floats hold them.
LARGEST = 2**31 - 1

stdout = Console(emoji=False)
stderr = Console(stderr=True, emoji=False)

Row = Mapping[str, Any]


class Format(StrEnum):
    """What `--output` accepts."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    CSV = "csv"


Output = Annotated[Format, typer.Option("--output", help="Format of the data on stdout.")]


def message(text: str) -> None:
    """Print one line for the person on stderr."""
    stderr.print(text, highlight=False, soft_wrap=True, markup=False)


def show_rows(rows: Sequence[Row], output: Format, *, title: str, key: str) -> None:
    """Print a list of records; JSON and YAML wrap it as {"schema_version", key: [...]}."""
    if output is Format.TABLE:
        stdout.print(as_table(rows, title))
    elif output is Format.CSV:
        _csv(rows)
    else:
        _structured({key: [dict(row) for row in rows]}, output)


class RowStream:
    """Prints records one by one, each at once: as lines, JSON lines, items of a YAML list, or CSV."""

    def __init__(self, output: Format) -> None:
        self._output, self._first = output, True

    def show(self, row: Row) -> None:
        """Print one record; all must have the same fields."""
        if self._output is Format.TABLE:
            stdout.print("  ".join(map(cell, row.values())), highlight=False, soft_wrap=True, markup=False)
        elif self._output is Format.CSV:
            writer = csv.DictWriter(sys.stdout, fieldnames=list(row), lineterminator="\n")
            if self._first:
                writer.writeheader()
            writer.writerow(row)
        elif self._output is Format.JSON:
            print(json.dumps({"schema_version": SCHEMA_VERSION, **row}, allow_nan=False))
        else:
            print(yaml.safe_dump([dict(row)], sort_keys=False), end="")
        self._first = False
        sys.stdout.flush()


def show_record(record: Row, output: Format, *, title: str) -> None:
    """Print one record; as a table it has a line per field, nested fields joined by dots."""
    if output in (Format.JSON, Format.YAML):
        _structured(record, output)
        return
    rows = [{"field": name, "value": value} for name, value in flat(record).items()]
    if output is Format.TABLE:
        stdout.print(as_table(rows, title))
    else:
        _csv(rows)


def as_table(rows: Sequence[Row], title: str) -> Table:
    """Lay records out as a table, numbers to the right."""
    table = Table(title=Text(title), title_justify="left", title_style="bold")
    for name in rows[0] if rows else ["nothing yet"]:
        numeric = bool(rows) and isinstance(rows[0][name], (int, float))
        table.add_column(name.replace("_", " "), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell(value)) for value in row.values()))
    return table


def cell(value: object) -> str:
    """Show a value in a table: few digits, `-` for what is not there."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) >= 10 or value == int(value) else f"{value:.4f}"
    if isinstance(value, (list, tuple)):
        return " ".join(cell(item) for item in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def flat(record: Row, prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings: {"a": {"b": 1}} becomes {"a.b": 1}."""
    fields: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            fields |= flat(value, f"{prefix}{name}.")
        else:
            fields[prefix + name] = value
    return fields


def _structured(record: Row, output: Format) -> None:
    document = {"schema_version": SCHEMA_VERSION, **record}
    if output is Format.JSON:
        print(json.dumps(document, indent=2, allow_nan=False))
    else:
        print(yaml.safe_dump(json.loads(json.dumps(document)), sort_keys=False), end="")


def _csv(rows: Sequence[Row]) -> None:
    if not rows:
        return
    writer = csv.DictWriter(sys.stdout, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: json.dumps(v) if isinstance(v, (list, dict)) else v for name, v in row.items()} for row in rows
    )

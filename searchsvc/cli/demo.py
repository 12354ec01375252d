"""`searchsvc demo`: the whole loop on the embedded model; `demo data` writes its data alone."""

from pathlib import Path
from typing import Annotated

import typer

from searchsvc.cli.output import LARGEST, message

app = typer.Typer(help="The whole loop on the embedded model.")


@app.callback(invoke_without_command=True)
def demo(
    context: typer.Context,
    folder: Annotated[Path, typer.Option("--dir", help="Database, data, plots and profile go here.")] = Path(
        "demo"
    ),
    full: Annotated[
        bool, typer.Option("--full", help="All 512 search samples and the README's trial counts.")
    ] = False,
) -> None:
    """Baseline, a study per method, the front, a profile, and its verification on data that no search saw."""
    if context.invoked_subcommand is None:
        from searchsvc.demonstration import demonstrate

        demonstrate(folder, full=full)


@app.command()
def data(
    folder: Annotated[Path, typer.Argument(help="Where to write the images and the manifest.")],
    search: Annotated[int, typer.Option(min=1, max=LARGEST, help="Samples that trials see.")] = 512,
    test: Annotated[int, typer.Option(min=1, max=LARGEST, help="Samples that only results see.")] = 2000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Write the demo's scenes as PNG files with a JSONL manifest."""
    from searchsvc.demo.data import write

    message(f"written: {write(folder, search=search, test=test, seed=seed)}")

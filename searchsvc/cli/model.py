"""`searchsvc model`: what pruning finds in a model."""

from pathlib import Path
from typing import Annotated

import typer

from searchsvc.cli.output import Format, Output, show_record

#: No code that came with a model runs unless this is given.
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that the model's folder brings.")]

app = typer.Typer(no_args_is_help=True, help="Models: what pruning finds in them.")


@app.callback()
def group() -> None:
    """Models: what pruning finds in them."""


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="Hub id, 'demo', or a folder; a config.json in it is enough.")],
    image: Annotated[
        Path | None, typer.Option(help="Ask the model's processor how many tokens this image becomes.")
    ] = None,
    trust_remote_code: Trust = False,
    output: Output = Format.TABLE,
) -> None:
    """Show layers, visual tokens, attention and cost of a model; exit status 2 when it cannot be pruned."""
    from searchsvc.inspection import inspect_model

    record = inspect_model(model, image, trust_remote_code=trust_remote_code)
    show_record(
        record, output, title=f"{model}: {'can be pruned' if record['supported'] else 'not supported'}"
    )
    if not record["supported"]:
        raise typer.Exit(2)

"""`searchsvc cost`: what one prefill of a model costs, whole and pruned."""

from pathlib import Path
from typing import Annotated

import typer

from searchsvc.cli.model import Trust
from searchsvc.cli.output import LARGEST, Format, Output, show_record


def cost(
    model: Annotated[str, typer.Argument(help="Hub id, 'demo', or a folder; a config.json in it is enough.")],
    visual_tokens: Annotated[
        int, typer.Option(min=0, max=LARGEST, help="Visual tokens that enter the decoder.")
    ],
    text_tokens: Annotated[int, typer.Option(min=1, max=LARGEST, help="Text tokens beside them.")],
    profile: Annotated[Path | None, typer.Option(help="A pruning profile (YAML).")] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            help="fastv:k=2,r=0.5 | pdrop | vtw:k=16 | p-sigmoid:b=0.25,k=0.3 | table:rates=1/1/0.5"
        ),
    ] = None,
    trust_remote_code: Trust = False,
    output: Output = Format.TABLE,
) -> None:
    """Print FLOPs by both counters, KV bytes and parameters of one prefill."""
    from searchsvc.costing import prefill

    record = prefill(
        model,
        visual_tokens,
        text_tokens,
        profile=profile,
        schedule=schedule,
        trust_remote_code=trust_remote_code,
    )
    show_record(record, output, title=f"One prefill of {model}: {schedule or profile or 'no pruning'}")

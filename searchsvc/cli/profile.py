"""`searchsvc profile`: export, show, verify, bench."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from searchsvc.cli.db import Url
from searchsvc.cli.model import Trust
from searchsvc.cli.output import Format, Output, message, show_record
from searchsvc.cli.study import Name, open_database

app = typer.Typer(no_args_is_help=True, help="Pruning profiles: a study's result as a YAML file.")

File = Annotated[Path, typer.Argument(help="A pruning profile (YAML).")]


@app.command()
def export(
    name: Name,
    out: Annotated[Path, typer.Option("-o", "--out", help="Where to write the profile.")],
    max_drop: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="The cheapest schedule that is confidently within this drop on `test`."
        ),
    ] = None,
    max_flops: Annotated[
        float | None, typer.Option(min=0, max=1, help="The most accurate schedule up to this FLOPs ratio.")
    ] = None,
    trial: Annotated[int | None, typer.Option(min=0, help="The schedule of this trial.")] = None,
    knee: Annotated[bool, typer.Option("--knee", help="The front's knee.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    db: Url = None,
) -> None:
    """Write a study's schedule as a profile, with its numbers measured on the `test` split.

    Of a study with a latency goal, only members of the front that were fast enough are chosen among, except
    by --trial; what was measured of the prefill is written into the profile.
    """
    from searchsvc.cluster import session
    from searchsvc.export import Choice, export_profile
    from searchsvc.settings import Settings

    choice = Choice(max_drop=max_drop, max_flops=max_flops, trial=trial, knee=knee)
    with open_database(db) as database, session():
        address = Settings().ray_address
        message(export_profile(database, name, choice, out, overwrite=force, ray_address=address))


@app.command()
def show(profile: File, output: Output = Format.TABLE) -> None:
    """Show a profile: its schedule, its numbers and where it comes from."""
    from pruners.profile import PruningProfile

    record = PruningProfile.load(profile).model_dump(mode="json", by_alias=True)
    show_record(record, output, title=str(profile))


@app.command()
def verify(
    profile: File,
    data: Annotated[
        Path | None, typer.Option(help="JSONL manifest; default: the `test` split of its study.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model to verify on; default: the profile's own.")] = None,
    transfer: Annotated[
        bool, typer.Option("--transfer", help="Allow another model of the same depth.")
    ] = False,
    trust_remote_code: Trust = False,
    output: Output = Format.TABLE,
    db: Url = None,
) -> None:
    """Measure a profile beside no pruning: accuracy, FLOPs, KV cache, latency, throughput, memory."""
    from searchsvc.cluster import session
    from searchsvc.settings import Settings
    from searchsvc.verification import verify_profile

    with open_database(db, create=True) as database, session():  # it remembers what it measures
        record = verify_profile(
            database,
            profile,
            data=data,
            model=model,
            transfer=transfer,
            trust_remote_code=trust_remote_code,
            ray_address=Settings().ray_address,
        )
    show_record(record, output, title=f"{profile}, measured beside no pruning")


@app.command()
def bench(
    profile: File,
    model: Annotated[str | None, typer.Option(help="Model to measure; default: the profile's own.")] = None,
    image: Annotated[Path | None, typer.Option(help="What the prompts ask about; default: made up.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts that run together.")] = 1,
    rounds: Annotated[
        int, typer.Option(min=6, help="Interleaved pairs; fewer than 6 give no interval.")
    ] = 15,
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], typer.Option()] = "float32",
    attention: Annotated[
        Literal["sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", "eager"], typer.Option()
    ] = "sdpa",
    trust_remote_code: Trust = False,
    output: Output = Format.TABLE,
) -> None:
    """Measure a profile's speed alone, beside no pruning: no data and no labels are needed."""
    from searchsvc.benching import bench_profile

    record = bench_profile(
        profile,
        model=model,
        image=image,
        batch_size=batch_size,
        rounds=rounds,
        dtype=dtype,
        attention=attention,
        trust_remote_code=trust_remote_code,
    )
    show_record(record, output, title=f"{profile}, measured beside no pruning")

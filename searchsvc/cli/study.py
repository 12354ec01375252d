"""`searchsvc study`: create, run, list, show, front, delete."""

from pathlib import Path
from typing import Annotated, Any

import typer

from searchsvc.cli.db import Url
from searchsvc.cli.model import Trust
from searchsvc.cli.output import LARGEST, Format, Output, message, show_record, show_rows

app = typer.Typer(no_args_is_help=True, help="Searches for pruning schedules, each one an Optuna study.")

Name = Annotated[str, typer.Argument(help="Name of the study.")]
Priority = Annotated[
    int, typer.Option(min=-1000, max=1000, help="Of studies that wait, those of higher priority run first.")
]


@app.command()
def create(
    name: Annotated[
        str | None, typer.Argument(help="Name of the study; may stand in the spec instead.")
    ] = None,
    spec: Annotated[Path | None, typer.Option(help="YAML spec; flags given beside it win.")] = None,
    model: Annotated[str | None, typer.Option(help="Hub id, folder, or 'demo'.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="JSONL manifest; made for the demo model when left out.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="g-search, p-sigmoid, topv, fastv, pdrop, vtw, random, pareto.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="exact_match, choice, anls, relaxed, fidelity; default: the rows' own."),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-O", help="KEY=VALUE of the method; repeatable.")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="skopt-ei, tpe, gp, nsga2, random, brute-force.")
    ] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    search_samples: Annotated[int | None, typer.Option(min=1, help="Samples that trials see.")] = None,
    test_samples: Annotated[int | None, typer.Option(min=1, help="Samples that only results see.")] = None,
    max_drop: Annotated[float | None, typer.Option(min=0, max=1, help="Goal: accuracy lost at most.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16.")] = None,
    trust_remote_code: Trust = False,
    allow_outside_images: Annotated[
        bool, typer.Option("--allow-outside-images", help="Let the manifest name images outside its folder.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Ray actors.")] = None,
    gpus_per_worker: Annotated[float | None, typer.Option(min=0)] = None,
    batch_size: Annotated[int | None, typer.Option(min=1)] = None,
    parallel_trials: Annotated[
        int | None,
        typer.Option(min=1, help="Trials under way at once; part of the search: trials differ with it."),
    ] = None,
    cache_memory: Annotated[
        str | None,
        typer.Option(
            help="Of a worker, for what trials share: 4GiB, 0 for none; default: its part of half the free."
        ),
    ] = None,
    hours: Annotated[float | None, typer.Option(min=0, help="Stop then, keep the best so far.")] = None,
    gpu_hours: Annotated[float | None, typer.Option(min=0, help="Hours times GPUs; as --hours.")] = None,
    goal: Annotated[
        list[str] | None,
        typer.Option(
            help="KEY=VALUE; repeatable. max-drop, as --max-drop. max-latency-ratio: prefill time over that "
            "of no pruning, at most; when the search ends, a worker times the front's members."
        ),
    ] = None,
    warm_start: Annotated[
        str | None,
        typer.Option(
            metavar="STUDY", help="Try first what this study of the same model and method found best."
        ),
    ] = None,
    priority: Priority = 0,
    run: Annotated[bool, typer.Option("--run", help="Run it now.")] = False,
    db: Url = None,
) -> None:
    """Check spec, model, data and one forward, then store the study and say how long it will take."""
    from searchsvc.creation import create_study

    flags: dict[str, Any] = {
        "name": name,
        "model.id": model,
        "model.dtype": dtype,
        # off is the default, and must not overrule a spec
        "model.trust_remote_code": trust_remote_code or None,
        "data.path": None if data is None else str(data),
        "data.allow_outside_images": allow_outside_images or None,
        "data.metric": metric,
        "data.split.search": search_samples,
        "data.split.test": test_samples,
        "search.method": method,
        "search.sampler": sampler,
        "search.seed": seed,
        "goal.max_drop": max_drop,
        "limits.hours": hours,
        "limits.gpu_hours": gpu_hours,
        "workers.count": workers,
        "workers.gpus_per_worker": gpus_per_worker,
        "workers.batch_size": batch_size,
        "workers.parallel_trials": parallel_trials,
        "workers.cache_memory": cache_memory,
    }
    with open_database(db, create=True) as database:
        created = create_study(database, spec, flags, option or [], goal or [], warm_start, priority)
        message(created.summary)
        if run:
            _run(database, created.name)
        else:
            message(f"queued; run it with: searchsvc study run {created.name}, or searchsvc serve")


@app.command()
def run(name: Name, db: Url = None) -> None:
    """Run a study here, on local Ray; one that was interrupted goes on where it was."""
    with open_database(db) as database:
        _run(database, name)


@app.command("list")
def list_(
    limit: Annotated[
        int | None, typer.Option(min=1, max=LARGEST, help="So many at most; default: all.")
    ] = None,
    offset: Annotated[int, typer.Option(min=0, max=LARGEST, help="Leave so many of the oldest out.")] = 0,
    output: Output = Format.TABLE,
    db: Url = None,
) -> None:
    """List the studies, oldest first."""
    from searchsvc.queries import left_out, list_studies

    with open_database(db) as database:
        rows = list_studies(database, limit=limit, offset=offset)
        show_rows(rows, output, title="Studies", key="studies")
        if line := left_out(database, len(rows), offset):
            message(line)


@app.command()
def show(name: Name, output: Output = Format.TABLE, db: Url = None) -> None:
    """Show a study: its fully resolved spec, its state and its best so far."""
    from searchsvc.queries import show_study

    with open_database(db) as database:
        show_record(show_study(database, name), output, title=f"Study {name}")


@app.command()
def front(
    name: Name,
    output: Output = Format.TABLE,
    plots: Annotated[Path | None, typer.Option(help="Folder for front and schedule as PNG and HTML.")] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Every evaluated schedule, not the front alone.")
    ] = False,
    db: Url = None,
) -> None:
    """Show the Pareto front of accuracy against FLOPs on the `search` split, and draw it.

    Of a study with a latency goal, the members' measured prefill time over that of no pruning stands beside.
    """
    from searchsvc.latencies import read_latencies
    from searchsvc.points import on_front, rows
    from searchsvc.queries import study_points
    from searchsvc.report import draw

    with open_database(db) as database:
        points = study_points(database, name)
        chosen = points if all_ else on_front(points)
        show_rows(
            rows(chosen, read_latencies(database, name)),
            output,
            title=f"{name}: {'every trial' if all_ else 'front'} (search split)",
            key="points",
        )
        if plots is not None:
            for path in draw(points, plots, name):
                message(f"drawn: {path}")


@app.command()
def delete(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    db: Url = None,
) -> None:
    """Delete a study and its trials; its evaluations stay remembered for other studies."""
    from searchsvc.queries import delete_study, show_study

    with open_database(db) as database:
        show_study(database, name)
        if not yes and not typer.confirm(f"Delete study {name} and its trials?", err=True):
            message("nothing was deleted")
            return
        delete_study(database, name)
        message(f"deleted {name}")


def open_database(url: str | None, *, create: bool = False) -> Any:
    """Open the database that `--db` and the settings name; one that is not there is made if `create` says so.

    The embedded one, which nobody named, is made for every command.
    """
    from db.session import Database
    from searchsvc.settings import Settings

    settings = Settings()
    embedded = not (url or settings.db_url)
    return Database.open(settings.database_url(url), create=create or embedded)


def _run(database: Any, name: str) -> None:
    from searchsvc.cluster import session
    from searchsvc.controller import run_study
    from searchsvc.progress import bars
    from searchsvc.settings import Settings

    with session(), bars(name) as progress:
        run_study(database, name, ray_address=Settings().ray_address, told=progress)
    conclude(database, name)


def conclude(database: Any, name: str) -> None:
    """Say what a study that is done came to; where nothing meets the goal, what came closest."""
    from db.studies import get_study
    from searchsvc.errors import GoalNotMetError

    outcome = get_study(database, name).outcome or {}
    for line in outcome.get("closest", []):
        message(f"closest: {line}")
    if not outcome.get("meets_goal", True):
        raise GoalNotMetError(outcome["summary"])
    message(outcome.get("summary", f"{name}: done"))

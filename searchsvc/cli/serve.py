"""`searchsvc serve`: runs the studies that others have queued."""

from typing import Annotated

import typer

from searchsvc.cli.db import Url


def serve(
    db: Url = None,
    ray_address: Annotated[
        str | None,
        typer.Option(help="Ray cluster to run on; default: SEARCHSVC_RAY_ADDRESS, else one on this machine."),
    ] = None,
    max_studies: Annotated[
        int | None, typer.Option(min=1, help="Run at once at most; default: what there is room for.")
    ] = None,
    host: Annotated[str, typer.Option(help="Where /healthz and /metrics are served.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 9090,
    lease_seconds: Annotated[
        float,
        typer.Option(
            min=1, help="After so long another controller takes over the studies of one that is gone."
        ),
    ] = 30.0,
    once: Annotated[bool, typer.Option("--once", help="End when no study waits and none runs here.")] = False,
) -> None:
    """Run queued studies, several at once as there is room, until SIGTERM; logs are JSON lines on stderr.

    Any number of these share a database. At SIGTERM, or Ctrl-C, studies are given back to be gone on with; a
    second one ends them at once.
    """
    from searchsvc.health import served
    from searchsvc.logs import log, log_as_json
    from searchsvc.metrics import Metrics
    from searchsvc.room import RayPlace
    from searchsvc.serving import Controller, drain_at_signals
    from searchsvc.settings import Settings

    settings, metrics = Settings(), Metrics()
    controller = Controller(
        settings.database_url(db),
        RayPlace(ray_address or settings.ray_address),
        metrics,
        max_studies=max_studies,
        lease_seconds=lease_seconds,
    )
    log_as_json()
    drain_at_signals(controller)
    with served(metrics.registry, controller.health, host, port) as taken:
        log.info("pages", extra={"host": host, "port": taken})
        controller.run(once=once)

"""The service of bench/crash.py: `searchsvc serve` and its children, with workers that sleep.

python -m bench.crashing serve DATABASE_URL RAY_ADDRESS [--once]
python -m bench.crashing child                      # as `searchsvc.child`
"""

import sys

from bench.simulated import SimulatedEvaluations
from searchsvc import child, controller

LEASE_SECONDS = 30.0


class Naps(SimulatedEvaluations):
    """Four batches of 50 ms."""

    seconds, batches = 0.05, 4


def serve(url: str, address: str, *options: str) -> None:
    """What `searchsvc serve` does, but for its pages, and with children of our own."""
    from searchsvc.logs import log_as_json
    from searchsvc.metrics import Metrics
    from searchsvc.room import RayPlace
    from searchsvc.serving import Controller, drain_at_signals

    serving = Controller(
        url,
        RayPlace(address),
        Metrics(),
        max_studies=None,
        lease_seconds=LEASE_SECONDS,
        command=(sys.executable, "-m", "bench.crashing", "child"),
    )
    log_as_json()
    drain_at_signals(serving)
    serving.run(once="--once" in options)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(*sys.argv[2:])
    else:
        setattr(controller, "Evaluations", Naps)  # noqa: B010 - a type is no variable to a type checker
        child.main()

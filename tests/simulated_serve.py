"""`searchsvc serve` without Ray: so many CPUs, and a command of the test's that runs a study.

simulated_serve.py URL CPUS LEASE_SECONDS [--once] COMMAND...
"""

import sys

from searchsvc.health import served
from searchsvc.logs import log, log_as_json
from searchsvc.metrics import Metrics
from searchsvc.room import Need
from searchsvc.serving import Controller, drain_at_signals


class Here:
    """Room on this machine, whatever it has."""

    address = None

    def __init__(self, cpus: int) -> None:
        self._need = Need(cpus=cpus, gpus=0)

    def total(self) -> Need:
        return self._need

    free = total


def main() -> None:
    url, cpus, lease, *command = sys.argv[1:]
    once = command[0] == "--once"
    metrics = Metrics()
    controller = Controller(
        url, Here(int(cpus)), metrics, max_studies=None, lease_seconds=float(lease), command=command[once:]
    )
    log_as_json()
    drain_at_signals(controller)
    with served(metrics.registry, controller.health, "127.0.0.1", 0) as port:
        log.info("pages", extra={"port": port})
        controller.run(once=once)


if __name__ == "__main__":
    main()

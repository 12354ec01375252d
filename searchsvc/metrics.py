"""What `searchsvc serve` counts, for Prometheus."""

from collections.abc import Mapping
from typing import Any, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge

from db.values import Status


class Metrics:
    """Counters of one process since it started, and gauges of the whole database as it saw it last."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.studies = Gauge(
            "searchsvc_studies", "Studies in the database, by status.", ["status"], registry=registry
        )
        self.running = Gauge("searchsvc_running", "Studies that run in this process.", registry=registry)
        self.database = Gauge(
            "searchsvc_database_up", "Whether the database was in reach when last asked.", registry=registry
        )
        self.trials = Counter("searchsvc_trials", "Trials told.", registry=registry)
        self.failures = Counter(
            "searchsvc_failed_attempts", "Attempts of workers that failed.", registry=registry
        )
        self.ended = Counter(
            "searchsvc_studies_ended", "Studies that this process no longer runs.", ["how"], registry=registry
        )
        self.phases = Counter(
            "searchsvc_phase_seconds", "Seconds that studies spent in a phase.", ["phase"], registry=registry
        )

    def counted(self, by_status: Mapping[str, int]) -> None:
        """Take over how many studies the database holds."""
        self.database.set(1)
        for status in get_args(Status):
            self.studies.labels(status).set(by_status.get(status, 0))

    def take(self, event: Mapping[str, Any]) -> None:
        """Count an event of a running study (`searchsvc.child`)."""
        if event["event"] == "trial":
            self.trials.inc()
        elif event["event"] == "failure":
            self.failures.inc()
        elif event["event"] == "phases":
            for phase, seconds in event["seconds"].items():
                self.phases.labels(phase).inc(seconds)

"""How much room there is for studies, and how much each of them takes."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from searchsvc.errors import ClusterError


@dataclass(frozen=True, kw_only=True)
class Need:
    """CPUs and GPUs: of a study, or of a cluster."""

    cpus: float
    gpus: float

    def within(self, room: "Need") -> bool:
        """Whether there is room for it; GPUs come in fractions."""
        return self.cpus <= room.cpus + 1e-6 and self.gpus <= room.gpus + 1e-6


class Place(Protocol):
    """Where workers run."""

    #: for whoever shall join it
    address: str | None

    def total(self) -> Need:
        """All that there is now; ClusterError when it is out of reach."""

    def free(self) -> Need:
        """What nobody has taken yet."""


def need_of(spec: Mapping[str, Any], total: Need) -> Need | None:
    """Return what a study takes of a cluster: all its workers, or as many as there can be.

    None where there is no place for a single one. How many there are changes no number of a study.
    """
    workers = spec["workers"]
    one = Need(cpus=workers["threads"], gpus=workers["gpus_per_worker"])
    if not one.within(total):
        return None
    count = min(workers["count"], int((total.cpus + 1e-6) // one.cpus))
    if one.gpus:
        count = min(count, int((total.gpus + 1e-6) // one.gpus))
    return Need(cpus=count * one.cpus, gpus=count * one.gpus)


def left(total: Need, free: Need, ours: Sequence[Need]) -> Need:
    """Return what a further study may take: neither ours, who may still be starting, nor what others hold."""
    return Need(
        cpus=min(total.cpus - sum(need.cpus for need in ours), free.cpus),
        gpus=min(total.gpus - sum(need.gpus for need in ours), free.gpus),
    )


class RayPlace:
    """A Ray cluster: the one at `address`, else one on this machine, which ends with this process."""

    def __init__(self, address: str | None) -> None:
        self._given, self.address = address, address

    def total(self) -> Need:
        return self._look("total_resources")

    def free(self) -> Need:
        return self._look("free_resources")

    def _look(self, what: str) -> Need:
        from searchsvc import cluster

        try:
            self.address = cluster.join(self._given, cpus=os.cpu_count() or 1)
            cpus, gpus = getattr(cluster, what)()
        except ClusterError:
            raise
        except Exception as error:  # Ray has many, and it is joined anew
            cluster.disconnect()
            raise ClusterError(f"Ray is out of reach: {str(error).splitlines()[0]}") from error
        return Need(cpus=cpus, gpus=gpus)

"""Worker processes on Ray: started, called, waited for and killed. Only this file imports Ray."""

import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any, NamedTuple

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

from searchsvc.errors import ClusterError


@dataclass(frozen=True, kw_only=True)
class Workers:
    """How many workers there shall be, and what each of them takes."""

    count: int
    threads: int
    gpus: float = 0.0
    #: of a cluster; None: one on this machine, for us alone
    address: str | None = None
    #: a worker that takes longer over one batch is taken for dead, in seconds
    batch_timeout: float = 1800.0


class WorkerLostError(Exception):
    """The process of a worker is gone."""


class OutOfReachError(Exception):
    """A worker does not answer; whether it ever will is not known yet."""


class Started(NamedTuple):
    """A worker that is about to start."""

    actor: Any
    #: answered with the name of its node as soon as it has a place
    placed: Any
    #: answered when the worker is made
    ready: Any


class Replica:
    """The actor: a worker, made in `start`, so that what goes wrong there is an error like any other."""

    def place(self) -> str:
        """Return the name of the node that it is on."""
        return str(ray.get_runtime_context().get_node_id())

    def start(self, make: Callable[[Any], Any], job: Any) -> None:
        """Make the worker."""
        self._worker = make(job)

    def call(self, method: str, batch: int, *arguments: Any) -> Any:
        """Call a method of the worker."""
        return getattr(self._worker, method)(batch, *arguments)


class Cluster:
    """Starts processes in each of which `make(job)` makes a worker; the job is sent once."""

    def __init__(self, make: Callable[[Any], Any], job: Any, workers: Workers) -> None:
        connect(workers)
        self._make, self._job = make, ray.put(job)
        # No restarts by Ray: the coordinator starts a new one, so that every attempt is seen and counted.
        self._options = {
            "num_cpus": workers.threads,
            "num_gpus": workers.gpus,
            "max_restarts": 0,
            "max_task_retries": 0,
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(workers.threads)}},
        }

    def start(self) -> Started:
        """Have a worker started, as soon as there is a place for it."""
        actor = ray.remote(Replica).options(**self._options).remote()
        return Started(actor, actor.place.remote(), actor.start.remote(self._make, self._job))

    def call(self, actor: Any, method: str, batch: int, *arguments: Any) -> Any:
        """Have a method of a worker called; it does one thing after the other. Returns a reference."""
        return actor.call.remote(method, batch, *arguments)

    def answers(self, references: Sequence[Any], seconds: float) -> list[tuple[Any, Any]]:
        """Wait until at least one is answered: (reference, what it returned, or the exception it raised).

        WorkerLostError stands for those that will never be answered, OutOfReachError for those of which that
        is not known. None after so many seconds.
        """
        ready, _ = ray.wait(list(references), num_returns=len(references), timeout=0)
        ready = ready or ray.wait(list(references), num_returns=1, timeout=seconds)[0]
        return [(reference, _answer(reference)) for reference in ready]

    def ping(self, actor: Any) -> Any:
        """A reference that is answered when a worker can be reached and has done all it was called for."""
        return actor.place.remote()

    def kill(self, actor: Any) -> None:
        """End a worker's process, whatever it is doing."""
        ray.kill(actor)

    def has_node(self, name: str | None) -> bool:
        """Whether a node is still there."""
        return any(node["Alive"] and node["NodeID"] == name for node in ray.nodes())

    def resources(self) -> str:
        """What there is, in words."""
        found = ray.cluster_resources()
        return f"{found.get('CPU', 0):g} CPUs and {found.get('GPU', 0):g} GPUs on {len(ray.nodes())} nodes"


def _answer(reference: Any) -> Any:
    """What a call returned or raised, the latter without Ray's traceback in its message."""
    try:
        return ray.get(reference)
    except ActorUnavailableError as error:
        return OutOfReachError(str(error).splitlines()[0])
    except RayActorError as error:
        return WorkerLostError(str(error).splitlines()[0])
    except RayTaskError as error:
        return error.cause if isinstance(error.cause, Exception) else error
    except RayError as error:
        return error


def connect(workers: Workers) -> None:
    """Join the cluster, or start one on this machine; nothing where that was done before.

    Raises:
        ClusterError: it is out of reach.
    """
    join(workers.address, cpus=max(workers.count * workers.threads, 1))


def join(address: str | None, *, cpus: int) -> str:
    """As `connect`, with so many CPUs where it starts one; return the address at which others join it."""
    if not ray.is_initialized():
        # "local": without it Ray would join whatever cluster it finds on this machine
        place: dict[str, Any] = {"address": address or "local"}
        if not address:
            place |= {"num_cpus": cpus, "include_dashboard": False}
        try:
            with _own_sigterm():
                ray.init(log_to_driver=False, logging_level=logging.ERROR, **place)
        except Exception as error:  # Ray raises a bare Exception when a node does not come up in time
            where = address or f"this machine ({socket.gethostname()})"
            reason = str(error).splitlines()[0]
            raise ClusterError(f"Ray on {where} is out of reach: {reason}") from error
    return address or str(ray.get_runtime_context().gcs_address)


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep our handler of SIGTERM: Ray puts one in its place that ends the process at once."""
    ours = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ours)


def total_resources() -> tuple[float, float]:
    """CPUs and GPUs of the cluster that was joined."""
    return _resources(ray.cluster_resources())


def free_resources() -> tuple[float, float]:
    """CPUs and GPUs that no worker of anybody holds now."""
    return _resources(ray.available_resources())


def _resources(found: dict[str, float]) -> tuple[float, float]:
    return found.get("CPU", 0.0), found.get("GPU", 0.0)


@contextmanager
def session() -> Iterator[None]:
    """Leave the cluster at the end. What Ray reports meanwhile goes to stderr: stdout is for data."""
    with redirect_stdout(sys.stderr):
        try:
            yield
        finally:
            disconnect()


def disconnect() -> None:
    """Leave the cluster; a local one ends."""
    if ray.is_initialized():
        ray.shutdown()

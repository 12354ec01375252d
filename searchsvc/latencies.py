"""The prefill time of a front's members, measured on a worker, each once per study."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from db import latencies as stored
from db.session import Database
from db.values import Latency as Stored
from db.values import Lease, NewLatency
from pruners import Pruning
from pruners.profile import Latency
from studies.latency import pruned_members
from studies.measured import Measured

#: Interleaved rounds per member; as `profile bench` does it.
ROUNDS = 15

#: Measures a pruning beside none in so many rounds: what `searchsvc.speed.side_by_side` returns, and
#: `device_name`.
Measure = Callable[[Pruning, int], Mapping[str, Any]]

#: Called with (members measured, members in all).
OnTimed = Callable[[int, int], None]


def measure_front(
    database: Database,
    lease: Lease,
    front: Sequence[Measured],
    measure: Measure,
    told: OnTimed = lambda _done, _all: None,
) -> dict[str, Latency]:
    """Return the latency of every pruned member by its key; what the study has measured is read.

    Each is stored as soon as it is known, so that a process that dies loses one member's rounds.

    Raises:
        LeaseLost: the lease has been taken over; and whatever `measure` raises.
    """
    known = read_latencies(database, lease.name)
    members = pruned_members(front)
    missing = [member for member in members if member.key not in known]
    for number, member in enumerate(missing, len(members) - len(missing) + 1):
        if member.pruning is not None:
            new = _new(member.key, measure(member.pruning, ROUNDS))
            known[member.key] = _latency(stored.save_latency(database, lease, new))
            told(number, len(members))
    return {member.key: known[member.key] for member in members}


def read_latencies(database: Database, name: str) -> dict[str, Latency]:
    """Return what a study has measured so far, by the evaluations' keys.

    Raises:
        NotFound: there is no such study.
    """
    return {row.key: _latency(row) for row in stored.latencies(database, name)}


def shown(latency: Latency | None) -> str:
    """Say what was measured: the ratio, its interval and on what."""
    if latency is None or latency.prefill_ratio is None or latency.prefill_interval is None:
        return "prefill time not measured"
    low, high = latency.prefill_interval
    return (
        f"{latency.prefill_ratio:.3f} of the prefill time (95 % {low:.3f} to {high:.3f}; {latency.device}, "
        f"batch size {latency.batch_size}, {latency.rounds} rounds)"
    )


def _new(key: str, found: Mapping[str, Any]) -> NewLatency:
    low, high = found["prefill_interval_95"]
    return NewLatency(
        key=key,
        device=found["device_name"],
        batch_size=found["batch_size"],
        rounds=found["rounds"],
        ratio=found["prefill_ratio"],
        low=low,
        high=high,
        times={
            "prefill_ms": found["pruned"]["prefill_ms"],
            "decode_ms": found["pruned"]["decode_ms_per_token"],
            "baseline_prefill_ms": found["unpruned"]["prefill_ms"],
            "baseline_decode_ms": found["unpruned"]["decode_ms_per_token"],
        },
    )


def _latency(row: Stored) -> Latency:
    return Latency(
        **row.times,
        batch_size=row.batch_size,
        device=row.device,
        rounds=row.rounds,
        prefill_ratio=row.ratio,
        prefill_interval=(row.low, row.high),
    )

"""Which snapshots of prefills are remembered, within a number of bytes.

The next trial most likely first differs from this one where this one first differed from the last; there, and
before a trial's first reduction, a snapshot is worth having. A G-Search that has fixed the rates of layers
0 to i - 1 so moves its snapshots to layer i by itself.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from pruners.plan import Plan
from pruners.prefill import Prefill
from pruners.replay import Snapshot, continues


@dataclass(eq=False)
class _Held:
    snapshot: Snapshot
    #: the turn in which it was last gone on from, or made
    used: int


@dataclass(eq=False)
class _Call:
    """One call of one batch, which every pruning makes again."""

    held: list[_Held] = field(default_factory=list)
    #: the last prefill's numbers, for comparison
    last: Plan | None = None


class SnapshotStore:
    """The snapshots of all batches of one evaluator, within `limit` bytes. A *turn* is one pruning.

    Where they do not all fit, those that neither this turn nor the last one used make room; the others stay,
    and what finds no room is computed again.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        #: bytes that are held, and how many snapshots found no room
        self.held, self.declined = 0, 0
        self._turn = 0
        self._batches: dict[int, dict[Hashable, _Call]] = {}

    def clear(self) -> None:
        """Let go of everything."""
        self._batches.clear()
        self.held = 0

    def next_turn(self) -> None:
        """Another pruning begins."""
        self._turn += 1

    def of(self, batch: int) -> "BatchSnapshots":
        """The snapshots of one batch."""
        return BatchSnapshots(self, self._batches.setdefault(batch, {}))

    def note_use(self, held: _Held) -> None:
        """Gone on from in this turn."""
        held.used = self._turn

    def admit(self, call: _Call, snapshot: Snapshot) -> bool:
        """Hold a snapshot if there is room, or room can be made; say whether."""
        if not self._make_room(snapshot.nbytes):
            self.declined += 1
            return False
        call.held.append(_Held(snapshot, self._turn))
        self.held += snapshot.nbytes
        return True

    def drop(self, call: _Call, held: _Held) -> None:
        """Let go of one."""
        call.held.remove(held)
        self.held -= held.snapshot.nbytes

    def _make_room(self, nbytes: int) -> bool:
        stale = [pair for pair in self._all() if pair[1].used < self._turn - 1]
        if self.held - sum(held.snapshot.nbytes for _, held in stale) + nbytes > self.limit:
            return False
        for call, held in sorted(stale, key=lambda pair: pair[1].used):
            if self.held + nbytes <= self.limit:
                break
            self.drop(call, held)
        return True

    def _all(self) -> Iterator[tuple[_Call, _Held]]:
        for calls in self._batches.values():
            for call in calls.values():
                for held in call.held:
                    yield call, held


class BatchSnapshots:
    """What `pruners.replay.replayed` asks, for one batch."""

    def __init__(self, store: SnapshotStore, calls: dict[Hashable, _Call]) -> None:
        self._store, self._calls = store, calls

    def find(self, call: Hashable, prefill: Prefill) -> Snapshot | None:
        """The deepest snapshot that a prefill can go on from."""
        known = self._calls.setdefault(call, _Call()).held
        fitting = [held for held in known if continues(prefill, held.snapshot)]
        if not fitting:
            return None
        deepest = max(fitting, key=lambda held: held.snapshot.layer)
        self._store.note_use(deepest)
        return deepest.snapshot

    def wanted(self, call: Hashable, prefill: Prefill) -> set[int]:
        """Before the first reduction, and before the first layer that differs from the last prefill's."""
        known, plan = self._calls.setdefault(call, _Call()), prefill.plan
        last, known.last = known.last, plan
        layers = range(1, len(plan.counts))
        found = {next((layer for layer in layers if plan.reduces(layer)), 0)}
        if last is not None:
            found.add(max((n for n in layers if last.prefix(n) == plan.prefix(n)), default=0))
        return {n for n in found - {0} if not any(_has(held.snapshot, n, prefill) for held in known.held)}

    def keep(self, call: Hashable, snapshot: Snapshot) -> None:
        """Hold it in place of the one that knew less of the same place."""
        known, place = self._calls[call], (snapshot.layer, snapshot.prefix)
        older = next((h for h in known.held if (h.snapshot.layer, h.snapshot.prefix) == place), None)
        if older is not None:
            self._store.drop(known, older)
        if older is None or not self._store.admit(known, _merged(older.snapshot, snapshot)):
            self._store.admit(known, snapshot)


def _has(snapshot: Snapshot, layer: int, prefill: Prefill) -> bool:
    return snapshot.layer == layer and continues(prefill, snapshot)


def _merged(older: Snapshot, newer: Snapshot) -> Snapshot:
    return Snapshot(
        newer.layer,
        newer.prefix,
        newer.output,
        newer.stages,
        newer.cached,
        {**older.signals, **newer.signals},
    )

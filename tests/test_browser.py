"""The dashboard in a real browser, a headless Chromium: what a person sees, and what they are refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from db_cases import sqlite_url
from here_cluster import HereCluster
from optuna.artifacts import get_all_artifact_meta
from selenium.webdriver.support.ui import WebDriverWait
from test_guard import TOKEN

from bench.browser import chromium, missing, serving, wait_for
from db.session import Database
from searchsvc import executor
from searchsvc.cli.app import run
from searchsvc.controller import run_study
from searchsvc.storage import optuna_storage

pytestmark = [pytest.mark.slow, pytest.mark.skipif(missing() is not None, reason=str(missing()))]

FIGURES = ("front", "schedule", "hypervolume")


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def database(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_manifest: Path
) -> Iterator[Database]:
    """A finished study, whose knee was exported."""
    folder = tmp_path_factory.mktemp("browser")
    url = sqlite_url(folder)
    about = [
        "--model",
        tiny_model,
        "--data",
        tiny_manifest,
        "--metric",
        "fidelity",
        "--batch-size",
        4,
        "--db",
        url,
    ]
    search = ["--method", "fastv", "-O", "layers=[2, 4]", "-O", "ratios=[0.5]", "--max-drop", 0.9]
    export = ["profile", "export", "shown", "--trial", 1, "-o", folder / "profile.yaml", "--db", url]
    with pytest.MonkeyPatch.context() as patch, Database.open(url) as opened:
        patch.setattr(executor, "Cluster", HereCluster)
        assert run([*map(str, ["study", "create", "shown", *about, *search])]) == 0
        run_study(opened, "shown")
        assert run([*map(str, export)]) == 0
        yield opened


@pytest.fixture(scope="module")
def address(database: Database) -> Iterator[str]:
    """Where it is served as `searchsvc dashboard` does without options."""
    with serving(database) as where:
        yield where


def page(database: Database, address: str, name: str = "") -> str:
    number = optuna_storage(database).get_study_id_from_name("shown")
    return f"http://{address}/dashboard/studies/{number}{name}"


def text(driver: Any) -> str:
    return str(driver.execute_script("return document.body.innerText"))


def test_it_opens_and_lists_the_study(driver: Any, address: str) -> None:
    driver.get(f"http://{address}/")
    assert wait_for(driver, "document.body.innerText.includes('shown')")


def test_our_figures_are_drawn(driver: Any, database: Database, address: str) -> None:
    driver.get(page(database, address))
    for name in FIGURES:
        titles = f"document.getElementById('user-defined-plot:{name}')?.querySelector('.gtitle')"
        assert "shown: " in wait_for(driver, f"{titles}?.textContent")
    front = "document.getElementById('user-defined-plot:front')"
    assert wait_for(driver, f"{front}.querySelectorAll('.errorbar').length") > 1
    assert wait_for(driver, f"{front}.querySelectorAll('.scatterlayer .point').length") > 4


def test_the_note_is_rendered(driver: Any, database: Database, address: str) -> None:
    driver.get(page(database, address, "/note"))
    assert "best so far is" in wait_for(driver, "document.querySelector('strong')?.closest('p')?.innerText")
    assert wait_for(driver, "document.querySelectorAll('table tr').length") > 2
    assert "searchsvc profile export shown --max-drop 0.9" in text(driver)


def test_the_exported_profile_can_be_read(driver: Any, database: Database, address: str) -> None:
    driver.get(page(database, address))
    link = wait_for(driver, "document.querySelector('a[href*=\"/artifacts/\"]')?.href")
    fetched = driver.execute_async_script(
        "const done = arguments[1]; fetch(arguments[0]).then(r => r.text()).then(done)", link
    )
    assert fetched.startswith("schema: searchsvc/pruning-profile/v1")


def change(driver: Any, method: str, path: str) -> int:
    """What the page itself is answered when it asks for a change."""
    script = "const [path, method, done] = arguments; fetch(path, {method}).then(r => done(r.status))"
    return int(driver.execute_async_script(script, path, method))


def test_deleting_a_study_is_refused(driver: Any, database: Database, address: str) -> None:
    """By the buttons that a visitor would press."""
    driver.get(f"http://{address}/dashboard")
    wait_for(driver, "document.querySelector('[aria-label=\"delete study\"]')").click()
    yes = (
        "[...document.querySelectorAll('[role=dialog] button')].find(b => b.innerText.toUpperCase() == 'YES')"
    )
    wait_for(driver, yes).click()
    assert wait_for(driver, "document.body.innerText.includes('Failed to delete study')")
    assert optuna.get_all_study_names(optuna_storage(database)) == ["shown"]
    assert change(driver, "PUT", "/api/studies/1/note") == 403


def test_nobody_enters_without_the_token(driver: Any, database: Database) -> None:
    with serving(database, token=TOKEN) as address:
        for known in ("", "anna:wrong-but-long-enough@"):
            driver.get(f"http://{known}{address}/dashboard")
            assert "shown" not in text(driver)
            assert driver.execute_script("return document.scripts.length") == 0
        driver.get(f"http://anna:{TOKEN}@{address}/dashboard")
        # the browser keeps what it has logged in with, as it does after its own question
        driver.get(f"http://{address}/dashboard")
        assert wait_for(driver, "document.body.innerText.includes('shown')")
        assert TOKEN not in driver.page_source
        assert change(driver, "DELETE", "/api/studies/1") == 403


def test_another_sites_page_reads_and_frames_nothing(
    driver: Any, database: Database, address: str, tmp_path: Path
) -> None:
    """A page of another origin, open in a browser that reaches the dashboard."""
    (tmp_path / "foreign.html").write_text("<title>foreign</title>")
    driver.get(f"http://{address}/dashboard")
    (artifact,) = get_all_artifact_meta(
        optuna.load_study(study_name="shown", storage=optuna_storage(database))
    )
    number = optuna_storage(database).get_study_id_from_name("shown")
    driver.get((tmp_path / "foreign.html").as_uri())
    for path in ("api/studies", f"artifacts/{number}/{artifact.artifact_id}"):
        read = (
            "const [url, done] = arguments; fetch(url).then(r => r.text()).then(done, () => done('blocked'))"
        )
        assert driver.execute_async_script(read, f"http://{address}/{path}") == "blocked"
    framed = "const frame = document.createElement('iframe'); frame.src = arguments[0]; document.body.append(frame)"
    driver.execute_script(framed, f"http://{address}/dashboard")
    driver.switch_to.frame(0)
    where = WebDriverWait(driver, 10).until(
        lambda d: d.execute_script("return location.href").partition(":")[0]
    )
    assert where == "chrome-error"
    driver.switch_to.default_content()


def test_a_page_whose_name_leads_here_sees_nothing(driver: Any, address: str) -> None:
    """DNS rebinding: 127.0.0.1 under another name."""
    port = address.partition(":")[2]
    driver.get(f"http://rebound.localhost:{port}/api/studies")  # Chromium resolves *.localhost itself
    assert "Open this dashboard as" in text(driver)
    assert "shown" not in text(driver)

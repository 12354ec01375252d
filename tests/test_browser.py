"""The dashboard in a real browser: a study's note and our figures are there, and nothing can be changed."""

from collections.abc import Iterator

import optuna
import pytest
from napping import SEARCH, nap, queue_study

pytest.importorskip("selenium", reason="selenium is not installed: it is one of the dev dependencies")

from browser import BROWSER, DRIVER, chromium, dashboard
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from db.session import Database
from db.studies import get_study
from searchsvc.controller import run_study
from searchsvc.demo.data import write
from searchsvc.storage import optuna_storage

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (BROWSER and DRIVER),
        reason="chromium and chromedriver (Debian: chromium-driver) are not on the PATH",
    ),
]

TOKEN = "0123456789abcdef"

#: the button of the question whether it shall be deleted
CONFIRM = "//*[@role='dialog']//button[normalize-space()='Yes' or normalize-space()='Delete']"

DELETE = "fetch(arguments[0], {method: 'DELETE'}).then(answer => arguments[1](answer.status))"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with one finished study."""
    folder = tmp_path_factory.mktemp("study")
    write(folder, search=8, test=1)
    made = f"sqlite:///{folder / 'studies.db'}"
    queue_study(made, folder / "manifest.jsonl", search=SEARCH | {"trials": 8})
    with pytest.MonkeyPatch.context() as patch, Database.open(made) as database:
        nap(patch.setattr)
        run_study(database, "one")
    return made


@pytest.fixture(scope="module")
def address(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    file = tmp_path_factory.mktemp("secret") / "token"
    file.write_text(TOKEN)
    with dashboard(url, "--token-file", str(file)) as served:
        yield served


@pytest.fixture(scope="module")
def browser(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """A browser that has been given the token for `address`."""
    with chromium(tmp_path_factory.mktemp("home")) as opened:
        # not the page itself: one whose own address holds a password may fetch nothing
        opened.get(f"{address.replace('//', f'//anybody:{TOKEN}@')}/api/meta")
        yield opened


def study_id(url: str) -> int:
    with Database.open(url) as database:
        return optuna.load_study(study_name="one", storage=optuna_storage(database))._study_id


def wait_for(browser: Chrome, *texts: str) -> None:
    """Wait until the page shows all the texts."""

    def shown(_: Chrome) -> bool:
        seen = browser.find_element(By.TAG_NAME, "body").text
        return all(text in seen for text in texts)

    WebDriverWait(browser, 20, ignored_exceptions=[StaleElementReferenceException]).until(
        shown, f"the page does not show {texts}"
    )


def test_a_study_shows_its_note_and_our_figures(browser: Chrome, address: str, url: str) -> None:
    browser.get_log("browser")  # of tests before
    browser.get(f"{address}/dashboard/studies/{study_id(url)}")
    wait_for(
        browser,
        "one: front",
        "one: hypervolume",
        "one: schedules",
        "decoder FLOPs over those without pruning",
    )
    for name in ("front", "hypervolume", "schedule"):
        figure = browser.find_element(By.ID, f"user-defined-plot:{name}")
        assert figure.find_elements(By.CSS_SELECTOR, "path.js-line"), f"{name} is empty"
    with Database.open(url) as database:
        verdict = get_study(database, "one").outcome["summary"].replace("`", "")
    browser.get(f"{address}/dashboard/studies/{study_id(url)}/note")
    wait_for(browser, "Method pareto on model demo", verdict, "searchsvc profile export one --max-drop")
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_the_delete_button_deletes_nothing(browser: Chrome, address: str, url: str) -> None:
    browser.get(f"{address}/dashboard/")
    wait_for(browser, "one")
    browser.find_element(By.CSS_SELECTOR, "[aria-label='delete study']").click()
    WebDriverWait(browser, 10).until(lambda _: browser.find_elements(By.XPATH, CONFIRM))
    browser.find_element(By.XPATH, CONFIRM).click()
    wait_for(browser, "Failed to delete study")
    assert study_id(url)
    assert browser.execute_async_script(DELETE, f"/api/studies/{study_id(url)}") == 403


def test_nothing_is_shown_without_the_token(browser: Chrome, address: str) -> None:
    browser.get(
        f"{address.replace('127.0.0.1', 'localhost')}/dashboard/"
    )  # browsers know a token by the name
    assert "optuna" not in browser.page_source.lower()
    browser.get(f"{address}/dashboard/")
    wait_for(browser, "one")

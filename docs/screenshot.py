"""Takes docs/images/dashboard.png: our figures of a study, as a headless Chromium shows them.

python docs/screenshot.py sqlite:///demo/searchsvc.db STUDY
"""

import sys
import tempfile
from pathlib import Path

import optuna
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from browser import chromium, dashboard
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from db.session import Database
from searchsvc.storage import optuna_storage

PICTURE = Path(__file__).parent / "images" / "dashboard.png"
#: Few colours are enough for lines and text, and keep the file small.
COLOURS = 64


def main() -> None:
    """Read the database's URL and the study's name from the command line."""
    url, name = sys.argv[1:]
    with Database.open(url) as database:
        number = optuna.load_study(study_name=name, storage=optuna_storage(database))._study_id
    with (
        tempfile.TemporaryDirectory() as folder,
        dashboard(url) as address,
        chromium(Path(folder), width=1400, height=1180) as browser,
    ):
        browser.get(f"{address}/dashboard/studies/{number}")
        drawn = (By.CSS_SELECTOR, "[id^='user-defined-plot:'] path.js-line")
        WebDriverWait(browser, 30).until(lambda _: len(browser.find_elements(*drawn)) >= 3)
        first = browser.find_element(By.CSS_SELECTOR, "[id^='user-defined-plot:']")
        browser.execute_script("arguments[0].scrollIntoView(); window.scrollBy(0, -100)", first)
        browser.save_screenshot(str(PICTURE))
    with Image.open(PICTURE) as image:
        image.convert("RGB").quantize(COLOURS).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()

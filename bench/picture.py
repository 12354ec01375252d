"""Takes the README's picture of the dashboard, of any study:

python -m bench.picture demo-full/searchsvc.db demo-pareto docs/images/dashboard.png
"""

import argparse
import io
from pathlib import Path

from PIL import Image

from bench.browser import chromium, missing, serving, wait_for
from db.session import Database
from searchsvc.storage import optuna_storage

WIDTH, HEIGHT = 1400, 1180
#: a picture of lines and text loses nothing that is seen
COLOURS = 96
LAST = "user-defined-plot:schedule"


def main() -> None:
    """Serve the database, open the study's page at our figures, and write what a visitor sees."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("db", type=Path)
    parser.add_argument("study")
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    if reason := missing():
        parser.error(reason)
    with Database.open(f"sqlite:///{given.db.absolute()}") as database, serving(database) as address:
        number = optuna_storage(database).get_study_id_from_name(given.study)
        picture = _picture(f"http://{address}/dashboard/studies/{number}")
    picture.quantize(COLOURS).save(given.out, optimize=True)
    print(f"{given.out}: {given.out.stat().st_size >> 10} KiB")


def _picture(page: str) -> Image.Image:
    with chromium(WIDTH, HEIGHT) as driver:
        driver.get(page)
        wait_for(driver, f"document.getElementById('{LAST}')?.querySelector('.legend')")
        driver.execute_script("document.querySelector('[id^=user-defined-plot]').scrollIntoView()")
        driver.execute_script("scrollBy(0, -90)")  # from under the page's head
        wait_for(driver, "document.getAnimations().length == 0")
        return Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")


if __name__ == "__main__":
    main()

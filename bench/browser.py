"""The dashboard in a headless Chromium: served by a thread of this process, driven by selenium."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from db.session import Database
from searchsvc.dashboard import make_server

#: Debian's names of the browser and of what drives it; `make browser` installs both.
PROGRAMS = ("chromium", "chromedriver")


def missing() -> str | None:
    """Say which of the two programs is not installed; None when both are."""
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"{' and '.join(lacking)} not installed: make browser" if lacking else None


@contextmanager
def chromium(width: int = 1400, height: int = 1000) -> Iterator[webdriver.Chrome]:
    """Yield a browser with a profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        f"--window-size={width},{height}",
    ):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


@contextmanager
def serving(database: Database, **options: Any) -> Iterator[str]:
    """Serve the dashboard on a free port of this machine; yield HOST:PORT. `options` are `make_server`'s."""
    server = make_server(database, host="127.0.0.1", port=0, **options)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.effective_port}"
    finally:
        server.task_dispatcher.shutdown()
        server.asyncore.close_all(server._map)
        thread.join(10)


def wait_for(driver: webdriver.Chrome, script: str, seconds: float = 30) -> Any:
    """Return what a line of JavaScript comes to, as soon as it is something; TimeoutException otherwise."""
    return WebDriverWait(driver, seconds, 0.1).until(lambda d: d.execute_script(f"return {script}"), script)

"""A dashboard as a process on a finished study, and a headless Chromium that looks at it."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from db_cases import REPOSITORY
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

#: Debian's packages chromium and chromium-driver
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@contextmanager
def dashboard(url: str, *options: str) -> Iterator[str]:
    """Serve a database's dashboard; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "searchsvc", "dashboard", "--db", url, "--port", str(port), *options]
    process = subprocess.Popen(command, cwd=REPOSITORY, env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(address, process)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(address: str, process: subprocess.Popen, seconds: float = 60.0) -> None:
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up and process.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/api/meta", timeout=5).close()
            return
        except urllib.error.HTTPError:  # it wants a token
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the dashboard does not answer")


@contextmanager
def chromium(folder: Path, width: int = 1400, height: int = 1000) -> Iterator[Chrome]:
    """Open a headless Chromium whose files are in `folder`; needs `BROWSER` and `DRIVER`."""
    options = ChromeOptions()
    options.binary_location = BROWSER
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # as root, and in containers, neither Chromium's sandbox nor a large /dev/shm is to be had
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "no-proxy-server",
                     f"user-data-dir={folder / 'browser'}", f"window-size={width},{height}"):  # fmt: skip
        options.add_argument(f"--{argument}")
    driver = Chrome(options=options, service=Service(executable_path=DRIVER))
    try:
        yield driver
    finally:
        driver.quit()

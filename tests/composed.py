"""A docker-compose file's services as processes of this machine: the very same commands, in the file's order."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

#: seconds that a service may take to become healthy, to complete, or to end
PATIENCE = 90


class Composed:
    """Starts services one after the other; what a container would find by a name is put in its place."""

    def __init__(self, compose: Mapping[str, Any], folder: Path, places: Mapping[str, str]) -> None:
        """`places`: texts of commands and environments, and what stands for them on this machine."""
        self._services, self._folder = compose["services"], folder
        self._logs: dict[str, IO[bytes]] = {}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.secrets = {name: secrets.token_hex(32) for name in compose["secrets"]}
        for name, secret in self.secrets.items():
            (folder / name).write_text(secret)
        self.places = {"/run/secrets/": f"{folder}/", **places}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self.running.values()):
            process.kill()
            process.wait(PATIENCE)
        for log in self._logs.values():
            log.close()

    def start(self, name: str, printed: str = "") -> None:
        """Start a service; wait until it has printed something, and is healthy if its file says what that is."""
        self._logs[name] = (self._folder / f"{name}.log").open("wb")
        self.running[name] = subprocess.Popen(
            self._words(self._services[name]["command"]),
            env=self._environment(name),
            cwd=self._folder,
            stdout=self._logs[name],
            stderr=subprocess.STDOUT,
        )
        check = self._services[name].get("healthcheck")
        deadline = time.monotonic() + PATIENCE
        while printed not in self.log(name) or (check and self.call(name, *check["test"][1:]).returncode):
            assert self.running[name].poll() is None, self.log(name)
            assert time.monotonic() < deadline, self.log(name)
            time.sleep(0.5)

    def complete(self, name: str) -> None:
        """Run a service that ends."""
        self.start(name)
        assert self.running[name].wait(PATIENCE) == 0, self.log(name)

    def call(self, name: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command where a service runs."""
        return subprocess.run(
            self._words(command),
            env=self._environment(name),
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )

    def log(self, name: str) -> str:
        """What a service has printed."""
        return (self._folder / f"{name}.log").read_text()

    def _environment(self, name: str) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        home = self._folder / "home"
        home.mkdir(exist_ok=True)
        given = self._services[name]["environment"].items()
        return {
            "PATH": path,
            "HOME": str(home),
            "OMP_NUM_THREADS": "1",
            **{variable: self._placed(value) for variable, value in given},
        }

    def _words(self, command: Any) -> list[str]:
        words = [self._placed(word) for word in command]
        return [shutil.which(words[0], path=str(Path(sys.executable).parent)) or words[0], *words[1:]]

    def _placed(self, text: str) -> str:
        for name, place in self.places.items():
            text = text.replace(name, place)
        return text


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])

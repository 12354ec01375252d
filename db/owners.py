"""Who holds a lease: a process, named so that another on the same host can tell whether it lives."""

import os
import socket
from pathlib import Path

_UNKNOWN = "?"


def current_owner() -> str:
    """Return this process as host:pid:start.

    `host` includes the PID namespace, because two containers may share a host's name but not its process
    numbers; `start` is the process's start in clock ticks since boot, because numbers are used again.
    """
    pid = os.getpid()
    return f"{_host()}:{pid}:{_start(pid) or _UNKNOWN}"


def owner_is_dead(owner: str) -> bool:
    """Return whether `owner` certainly runs no more: same host, and no such process or a younger one.

    False for an owner on another host, or where this cannot be known: then its lease has to expire.
    """
    host, pid, start = owner.rsplit(":", 2)
    if host != _host() or start == _UNKNOWN:
        return False
    return _start(int(pid)) != start


def _host() -> str:
    try:
        namespace = Path("/proc/self/ns/pid").readlink().name
    except OSError:
        return socket.gethostname()
    return f"{socket.gethostname()}/{namespace.removeprefix('pid:').strip('[]')}"


def _start(pid: int) -> str | None:
    """Return the start of a process (field 22 of /proc/PID/stat), None when it has ended or has no /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before the last parenthesis may hold anything
    ended = fields[0] in ("Z", "X")
    return None if ended else fields[19]

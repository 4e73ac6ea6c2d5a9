"""Starting the process that serves the pages, and how the browser is started."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from helpers import environment

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
    "--autoplay-policy=no-user-gesture-required",
]  # fmt: skip


class Served(NamedTuple):
    """A page that is being served: its address, its library's folder, what it asked of other machines."""

    url: str
    folder: Path
    notes: Path


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def await_page(process: subprocess.Popen[bytes], url: str) -> None:
    """Wait until a page answers."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(url, timeout=10).close()
            return
        time.sleep(0.1)
    raise AssertionError(f"the page does not answer; its process says {process.poll()}")


def start_server(notes: Path, folders: Mapping[str, Path]) -> tuple[subprocess.Popen[bytes], list[Served]]:
    """Start to serve folders, the one called `app` as a tab of another application."""
    command = [sys.executable, str(Path(__file__).parent / "_server.py"), str(notes)]
    pages = []
    for kind, folder in folders.items():
        port = free_port()
        command += [str(folder), str(port), "app" if kind == "app" else "page"]
        pages.append(Served(f"http://127.0.0.1:{port}/", folder, notes))
    return subprocess.Popen(command, env=environment()), pages

"""Serves pages in a process of their own, and notes every other machine that the process asks for.

Arguments: the file for notes; then for each page the library's folder, a port, and `page` or `app`.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _watch_network(notes: Path) -> None:
    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect" and isinstance(arguments[1], tuple):
            host = arguments[1][0]
        elif event == "socket.getaddrinfo":
            host = arguments[0]
        else:
            return
        if str(host) not in ("127.0.0.1", "localhost", "::1", "None"):
            with notes.open("a") as file:
                file.write(f"{event} {host}\n")

    sys.addaudithook(hook)


def _serve_app(folder: str, port: int) -> None:
    """Another application with the library as one of its tabs."""
    with gr.Blocks(analytics_enabled=False) as app:
        with gr.Tab("Library"):
            loaded = library_tab(ModelLibrary(folder), on_load=lambda entry: f"{entry.name} plays now.")
        playing = gr.Textbox(label="Playing")
        loaded.change(lambda model_id: model_id, loaded, playing)
    app.launch(server_name="127.0.0.1", server_port=port, share=False, quiet=True, prevent_thread_lock=True)


_watch_network(Path(sys.argv[1]))
import gradio as gr  # noqa: E402

import distillgan.page  # noqa: E402
from distillgan.catalog import ModelLibrary  # noqa: E402
from distillgan.page import library_tab, serve  # noqa: E402
from distillgan.verify import verify  # noqa: E402


def _verify(path: str, progress: Callable[[int], object]) -> object:
    """Verify, but files called slow only slowly: each megabyte takes a while."""
    pause = 0.3 if "slow" in path else 0.0
    return verify(path, progress=lambda count: (progress(count), time.sleep(pause)))


distillgan.page.verify = _verify

gr.Blocks.block_thread = lambda self: None  # so that `serve` comes back and the next page is served, too
for folder, port, kind in zip(sys.argv[2::3], sys.argv[3::3], sys.argv[4::3], strict=True):
    if kind == "app":
        _serve_app(folder, int(port))
    else:
        serve(ModelLibrary(folder), port=int(port), open_browser=False)
threading.Event().wait()

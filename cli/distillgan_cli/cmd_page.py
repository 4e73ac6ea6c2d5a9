"""`distillgan catalog page`: the library in a browser."""

from __future__ import annotations

from pathlib import Path

import click

from distillgan.errors import DistillganError

from ._library import open_library
from ._shared import library_option, show


@click.command()
@click.option(
    "--port", type=click.IntRange(1, 65535), help="The port.  [default: the first free one from 7860]"
)
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@library_option
def page(port: int | None, no_browser: bool, library: Path | None) -> None:
    """Show the library in a browser: look, listen, verify, edit, delete.

    Serves on 127.0.0.1 until you press Ctrl-C; no other machine can reach it, and it asks nothing of
    another. Needs the extra `page`: pip install 'distillgan[page]'.
    """
    models = open_library(library)
    try:
        from distillgan.page import serve  # gradio: seconds, and an extra
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "gradio":
            raise
        raise DistillganError("The page needs gradio: pip install 'distillgan[page]'") from None
    serve(models, port=port, open_browser=not no_browser, tell=show)

"""`distillgan strip`: take the vocoder out of models."""

from __future__ import annotations

from pathlib import Path

import click

from distillgan.edit import strip_vocoder
from distillgan.labels import size_text

from ._each import each_file
from ._shared import files_argument, json_option, library_option


@click.command()
@files_argument
@json_option
@library_option
@click.pass_context
def strip(ctx: click.Context, files: tuple[str, ...], as_json: bool, library: Path | None) -> None:
    """Take the vocoder out of each FILE; the model's own weights are copied as they are.

    A FILE without a vocoder is left alone. A signature is removed, and stderr says so. --json
    gives [{"path"}].
    """

    def work(path: Path) -> str:
        strip_vocoder(path)
        return f"{path} ({size_text(path.stat().st_size)})"

    ctx.exit(each_file(files, library, as_json, work))

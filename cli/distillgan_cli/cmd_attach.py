"""`distillgan attach`: give a model a vocoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from distillgan.container import read_manifest

from ._shared import file_argument, find_file, json_option, library_option, show, show_json
from ._vocoder import VocoderOptions, read_vocoder, vocoder_options


@click.command()
@file_argument
@click.argument("vocoder", metavar="VOCODER", type=click.Path())
@vocoder_options
@click.option("--allow-mismatch", is_flag=True, help="Attach a vocoder that does not match the model.")
@json_option
@library_option
def attach(
    file: str, vocoder: str, allow_mismatch: bool, as_json: bool, library: Path | None, **options: Any
) -> None:
    """Put the VOCODER (a generator file) into FILE, in place of any that it has.

    The model's own weights are copied as they are, and FILE is replaced in one step. A signature is
    removed, and stderr says so. --json gives {"path", "vocoder"}.
    """
    path = find_file(file, library)
    read_manifest(path)  # a wrong FILE should not cost the import of torch
    said = VocoderOptions(*(options[f"vocoder_{name}"] for name in VocoderOptions._fields))
    from distillgan.torch import attach_vocoder

    attach_vocoder(path, read_vocoder(vocoder, said), allow_mismatch=allow_mismatch)
    found = read_manifest(path).vocoder
    kind = found.type if found else "(none)"
    if as_json:
        show_json({"path": str(path), "vocoder": kind})
    else:
        show(f"{path}: vocoder {kind}")

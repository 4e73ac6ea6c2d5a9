"""`distillgan sign`: sign models with an SSH key."""

from __future__ import annotations

from pathlib import Path

import click

from distillgan.signing import sign as sign_model

from ._each import each_file
from ._shared import files_argument, json_option, library_option


@click.command()
@files_argument
@click.option(
    "--key", required=True, type=click.Path(), help="A private key, or the .pub of one in ssh-agent."
)
@json_option
@library_option
@click.pass_context
def sign(ctx: click.Context, files: tuple[str, ...], key: str, as_json: bool, library: Path | None) -> None:
    """Sign each FILE with an SSH key, in place of any signature that it has.

    ssh-keygen makes the signature, over the manifest, which vouches for every byte of the file. Check
    it with `distillgan verify --allowed-signers`, or with `unzip -p` and ssh-keygen alone. --json
    gives [{"path"}].
    """

    def work(path: Path) -> None:
        sign_model(path, key)

    ctx.exit(each_file(files, library, as_json, work))

"""The command group: commands are imported when they are named, errors become one line."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from distillgan._text import printable
from distillgan._version import __version__
from distillgan.errors import (
    AmbiguousModelError,
    DistillganError,
    ModelNotFoundError,
)

# name: module. A command is imported only when it runs or its help is asked for.
_COMMANDS = {
    "pack": "cmd_pack",
    "inspect": "cmd_inspect",
    "verify": "cmd_verify",
    "unpack": "cmd_unpack",
    "compress": "cmd_compress",
    "decompress": "cmd_compress",
    "diff": "cmd_diff",
    "attach": "cmd_attach",
    "strip": "cmd_strip",
    "edit": "cmd_edit",
    "sign": "cmd_sign",
    "model": "cmd_model",
    "catalog": "cmd_catalog",
}


class LazyGroup(click.Group):
    """A group whose commands live in modules of their own."""

    def __init__(self, *args: Any, modules: dict[str, str] | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._modules = modules or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in the order of the table."""
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of that name."""
        module = self._modules.get(cmd_name)
        if module is None:
            return None
        command: click.Command = getattr(importlib.import_module(f"distillgan_cli.{module}"), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; our own errors and the system's become one line and an exit code."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            text = error.format_message()
            if printable(text, keep="\n") == text:
                raise
            raise click.UsageError(printable(text, keep="\n"), error.ctx) from None
        except (DistillganError, OSError) as error:
            complain(error)
            ctx.exit(exit_code(error))


def complain(error: DistillganError | OSError) -> None:
    """Say on stderr what went wrong, in one sentence; a reader that is gone is click's to handle."""
    if isinstance(error, BrokenPipeError):
        raise error
    click.echo(printable(describe(error), keep="\n"), err=True)


def describe(error: DistillganError | OSError) -> str:
    """The sentence for an error: exact for a legacy file, `path: code: sentence` for a bad one."""
    if isinstance(error, FileExistsError):
        return f"{error.filename} already exists; give another name or --force."
    if isinstance(error, OSError):
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{error.strerror or error}"
    return str(error)


def exit_code(error: DistillganError | OSError) -> int:
    """1 for problems in a file or on the disk, 2 for misuse."""
    misuse = (ModelNotFoundError, AmbiguousModelError, FileExistsError, FileNotFoundError)
    return 2 if isinstance(error, misuse) else 1


@click.group(
    cls=LazyGroup,
    modules=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
@click.version_option(__version__, prog_name="distillgan")
def cli() -> None:
    """Make, read and check .distillgan files: one safe file per audio model.

    Wherever a command takes a FILE, a model's name, its id or a unique beginning of its id does too.

    Exit codes: 0 fine, 1 problems in a file (of diff: a difference), 2 misuse.
    """


def main() -> None:
    """Run the command line."""
    cli.main(prog_name="distillgan" if sys.argv[0].endswith("__main__.py") else None)


__all__ = ["cli", "main"]

"""`distillgan compress` and `decompress`: to and from the transport form."""

from __future__ import annotations

import os
from pathlib import Path

import click

from distillgan import _atomic, _transport
from distillgan.container import BufferSource, Container
from distillgan.errors import DistillganError
from distillgan.labels import size_text
from distillgan.verify import verify

from ._shared import (
    file_argument,
    find_file,
    force_option,
    json_option,
    library_option,
    refuse_itself,
    show,
    show_json,
)

_SUFFIX = ".zst"
output_option = click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Where to write.  [default: beside FILE]"
)


@click.command()
@file_argument
@output_option
@force_option
@json_option
@library_option
def compress(file: str, output: Path | None, force: bool, as_json: bool, library: Path | None) -> None:
    """Write FILE.zst, one zstd frame that holds FILE, for sending; FILE stays.

    `distillgan decompress` or `zstd -d` give it back. --json gives {"path", "size", "from"}.
    """
    path = find_file(file, library)
    target = output or Path(f"{path}{_SUFFIX}")
    _refuse_existing(target, force)
    refuse_itself(target, path)
    _refuse_damaged(path)
    with Container.open(path) as container:
        if isinstance(container.source, BufferSource):
            raise DistillganError(f"{path} is in the transport form already.")
        frame = _transport.compress(container.source.read(0, container.size))
    _write(target, frame, force)
    _answer(path, target, as_json)


@click.command()
@file_argument
@output_option
@force_option
@json_option
@library_option
def decompress(file: str, output: Path | None, force: bool, as_json: bool, library: Path | None) -> None:
    """Write the container that FILE (`*.distillgan.zst`) holds; FILE stays.

    --json gives {"path", "size", "from"}.
    """
    path = find_file(file, library)
    target = output or path.with_suffix("")
    if output is None and path.suffix != _SUFFIX:
        raise click.UsageError(f"{path} does not end in {_SUFFIX}: say with -o where to write.")
    _refuse_existing(target, force)
    refuse_itself(target, path)
    _refuse_damaged(path)
    with Container.open(path) as container:
        if not isinstance(container.source, BufferSource):
            raise DistillganError(f"{path} is not compressed: it is a .distillgan file as it stands.")
        _write(target, container.source.data, force)
    _answer(path, target, as_json)


def _refuse_existing(target: Path, force: bool) -> None:
    if not force and os.path.lexists(target):
        raise FileExistsError(17, "exists", os.fspath(target))


def _refuse_damaged(path: Path) -> None:
    problems = verify(path)
    if problems:
        found = problems[0]
        where = f"{found.where}: " if found.where else ""
        raise DistillganError(f"{path}: {found.code}: {where}{found.message}")


def _write(target: Path, data: bytes | memoryview, force: bool) -> None:
    with _atomic.draft(target.parent) as draft:
        draft.file.write(data)
        if force:
            draft.replace(target)
        else:
            draft.claim([target])


def _answer(path: Path, target: Path, as_json: bool) -> None:
    size = target.stat().st_size
    if as_json:
        show_json({"path": os.fspath(target), "size": size, "from": os.fspath(path)})
    else:
        show(f"{target} ({size_text(size)})")

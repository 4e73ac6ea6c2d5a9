"""`distillgan unpack`: the entries of a container as plain files."""

from __future__ import annotations

import os
from pathlib import Path

import click

from distillgan import _atomic
from distillgan.container import BufferSource, Container, FileSource, entry_name
from distillgan.errors import DistillganError
from distillgan.verify import check_member

from ._shared import (
    file_argument,
    find_file,
    force_option,
    json_option,
    library_option,
    note,
    show,
    show_json,
)


@click.command()
@file_argument
@click.option(
    "-d",
    "--directory",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to write.",
)
@click.option(
    "--component", "components", multiple=True, help="Only this one: vae, vocoder, preview, manifest."
)
@force_option
@json_option
@library_option
@click.pass_context
def unpack(
    ctx: click.Context,
    file: str,
    directory: Path,
    components: tuple[str, ...],
    force: bool,
    as_json: bool,
    library: Path | None,
) -> None:
    """Write the entries of FILE into a folder: plain safetensors, JSON and FLAC.

    Only what is proven intact is written; from a damaged file the rest is named as lost, with exit
    code 1. --json gives {"written": [path], "lost": [{"entry", "code", "where", "message"}]}.
    """
    container, damage = Container.salvage(find_file(file, library))
    with container:
        names = _wanted(container, components)
        written, lost = [], []
        directory.mkdir(parents=True, exist_ok=True)
        for name in names:
            problems = _problems(container, name)
            if problems:
                lost += [{"entry": name, **problem} for problem in problems]
            else:
                written.append(_write(container, name, directory / name, force))
    for problem in damage:
        note(str(problem))
    if as_json:
        show_json({"written": written, "lost": lost})
    else:
        for path in written:
            show(path)
        for item in lost:
            note(f"lost {item['entry']}: {item['code']}: {item['where']}: {item['message']}")
    ctx.exit(int(bool(lost or damage)))


def _wanted(container: Container, components: tuple[str, ...]) -> list[str]:
    names = [entry.name for entry in container.entries]
    short = {name.split(".")[0]: name for name in reversed(names)}  # manifest.json before its .sig
    for component in components:
        if component not in short:
            has = ", ".join(reversed(short))
            raise click.UsageError(f"{container.path} has no {component}; it has {has}.")
    return [short[component] for component in components] or names


def _problems(container: Container, name: str) -> list[dict[str, str]]:
    found = [problem._asdict() for problem in check_member(container, name, lambda _: None)]
    component = next((c for c in container.components if entry_name(c) == name), None)
    if component is not None:
        try:
            container.header(component)
        except DistillganError as error:
            message = getattr(error, "message", str(error))
            found.insert(0, {"code": getattr(error, "code", ""), "where": name, "message": message})
    return found


def _write(container: Container, name: str, target: Path, force: bool) -> str:
    entry = container.entry(name)
    if entry is not None:
        with _atomic.draft(target.parent) as draft:
            source = container.source
            if isinstance(source, FileSource):
                _atomic.copy_range(source.fd, entry.offset, entry.size, draft.file)
            elif isinstance(source, BufferSource):
                draft.file.write(source.data[entry.offset : entry.offset + entry.size])
            if force:
                draft.replace(target)
            else:
                draft.claim([target])
    return os.fspath(target)

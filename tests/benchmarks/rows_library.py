"""Rows of the library: scan, refresh, memory of an entry; and whole processes, which count start-up."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from data import REPOSITORY, Data
from measure import Row, Target

Build = Callable[[Data], Row]

_SUFFIX = ".distillgan"
_ENTRY_POINT = "import sys; from distillgan_cli.main import main; sys.exit(main())"  # as the script does


def plans() -> Iterator[tuple[str, Build]]:
    """Each row's name and how to build it."""
    yield "scan a library into entries", scan
    yield "open a library without an index", open_new
    yield "refresh an unchanged library", refresh
    yield "open a library with an index", open_known
    yield "process: inspect", partial(process, work="inspect")
    yield "process: verify a small file", partial(process, work="verify")
    yield "process: model list of 1,000", list_models


def scan(data: Data) -> Row:
    """Every file of a folder as an entry of the listing that a library holds."""
    from distillgan._index import Listing, to_entry
    from distillgan._survey import survey

    folder, count = _library(data)

    def records() -> list[Any]:
        found = survey(folder, Listing())[0].records()
        if len(found) != count:
            raise AssertionError("some files were not read")
        return found

    return Row(
        "scan a library into entries",
        {
            "ours": records,
            "scandir+open+read+close": partial(read_all, folder),
            "ours, as public entries": lambda: [to_entry(record) for record in records()],
        },
        [Target(("scandir+open+read+close",), 3.0)],
        note=f"{count:,} files",
    )


def open_new(data: Data) -> Row:
    """`ModelLibrary` on a folder that has no index yet: scan, and write the index."""
    from distillgan.catalog import ModelLibrary

    folder, count = _library(data)
    return Row(
        "open a library without an index",
        {"ours": partial(ModelLibrary, folder), "scandir+open+read+close": partial(read_all, folder)},
        before=lambda _: (folder / "model_library.json").unlink(missing_ok=True),
        note=f"{count:,} files; the index is written and synced",
    )


def refresh(data: Data) -> Row:
    """`refresh()` of a library that is held, when nothing changed."""
    from distillgan.catalog import ModelLibrary

    folder, count = _library(data)
    library = ModelLibrary(folder)
    return Row(
        "refresh an unchanged library",
        {"ours": library.refresh, "scandir+stat": partial(stat_all, folder)},
        [Target(("scandir+stat",), 2.0)],
        note=f"{count:,} files",
    )


def open_known(data: Data) -> Row:
    """`ModelLibrary` on a folder whose index is up to date."""
    from distillgan.catalog import ModelLibrary

    folder, count = _library(data)
    ModelLibrary(folder)
    return Row(
        "open a library with an index",
        {"ours": partial(ModelLibrary, folder), "scandir+stat": partial(stat_all, folder)},
        note=f"{count:,} files",
    )


def process(data: Data, *, work: str) -> Row:
    """A whole process of the command line on the real pair."""
    path = data.model("small").ours
    contestants = {"ours": _command(_ENTRY_POINT, work, path), **_floors()}
    targets = [Target(("import click",), 2.0)] if work == "inspect" else []
    name = "process: inspect" if work == "inspect" else "process: verify a small file"
    return Row(name, contestants, targets)


def list_models(data: Data) -> Row:
    """A whole process that lists 1,000 models, with an index as after any first use."""
    folder = data.fresh("thousand")
    write_library(folder, 1000)
    command = _command(_ENTRY_POINT, "model", "list", "--library", str(folder))
    command()
    return Row(
        "process: model list of 1,000",
        {"ours": command, **_floors()},
        [Target(("import click",), 2.0, minus=0.05)],
        note="the target allows 50 ms more",
    )


def write_library(folder: Path, count: int) -> None:
    """Fill a folder with models that have a real manifest and one tensor each, an hour old."""
    from data import small

    from distillgan import Container

    pair = small()
    pair.vae = {"decoder.weight": next(iter(pair.vae.values())).flatten()[:64]}
    pair.vocoder = {"conv_pre.weight": next(iter(pair.vocoder.values())).flatten()[:64]}
    first = pair.save(folder)
    with Container.open(first) as container:
        members = {entry.name: container.source.read(entry.offset, entry.size) for entry in container.entries}
        model_id = container.manifest.metadata.model_id
    first.unlink()
    then = time.time() - 3600
    for number in range(count):
        path = folder / f"model_{number:06}{_SUFFIX}"
        path.write_bytes(_with_id(members, model_id, str(uuid.UUID(int=number, version=4)), number))
        os.utime(path, (then, then))


def read_all(folder: Path) -> None:
    """The floor of a scan: list, open, read, close."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(_SUFFIX):
                fd = os.open(entry.path, os.O_RDONLY)
                os.read(fd, 8192)
                os.close(fd)


def stat_all(folder: Path) -> None:
    """The floor of a refresh: list, stat."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(_SUFFIX):
                entry.stat(follow_symlinks=False)


def _library(data: Data) -> tuple[Path, int]:
    """The folder of 20,000 models, made once."""
    count = 1000 if data.quick else 20_000
    folder = data.folder / "library"
    if not folder.exists():
        folder.mkdir()
        write_library(folder, count)
    return folder, count


def _with_id(members: dict[str, bytes], old: str, new: str, number: int) -> bytes:
    from distillgan import _archive

    body = members["manifest.json"].replace(old.encode(), new.encode())
    body = body.replace(b'"name":"Rain on tin"', f'"name":"Rain on tin {number}"'.encode(), 1)
    parts = {**members, "manifest.json": body}
    found = _archive.layout([(name, len(part), _archive.crc32(part)) for name, part in parts.items()])
    file = io.BytesIO()
    for header, part in zip(found.headers, parts.values(), strict=True):
        file.write(header)
        file.write(part)
    file.write(found.tail)
    return file.getvalue()


def _floors() -> dict[str, Callable[[], None]]:
    return {"import click": _command("import click"), "bare Python": _command("pass")}


def _command(code: str, *arguments: str) -> Callable[[], None]:
    paths = [str(REPOSITORY), str(REPOSITORY / "cli"), os.environ.get("PYTHONPATH", "")]
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    line = [sys.executable, "-c", code, *arguments]

    def run() -> None:
        done = subprocess.run(
            line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        if done.returncode:
            raise AssertionError(f"exit code {done.returncode}: {done.stderr.strip()[-200:]}")

    return run

"""Rows of writing: save both components, attach, edit and strip, diff; synced to the disk and not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from data import MODELS, Data, Pair, read_manifest_text, save_dduf, save_safetensors, save_tdz, save_torch
from measure import Row, Target

Build = Callable[[Data], Row]

_fsync = os.fsync  # rows that do not sync put another in its place while a contestant runs


def plans() -> Iterator[tuple[str, Build]]:
    """Each row's name and how to build it."""
    for model in MODELS:
        for synced in (False, True):
            yield f"save, {model}{_suffix(synced)}", partial(save, model=model, synced=synced)
    for work in ("attach", "edit", "strip"):
        for synced in (False, True):
            yield f"{work}, big{_suffix(synced)}", partial(change, work=work, synced=synced)
    yield "diff, big", compare


def save(data: Data, *, model: str, synced: bool) -> Row:
    """Save both components of a model that is in memory."""
    saved = data.model(model)
    folder = data.fresh("save")
    manifest = read_manifest_text(saved.ours)
    body = Path(saved.ours).read_bytes()
    pair = saved.pair
    contestants: dict[str, Any] = {
        "ours": partial(pair.save, folder),
        "safetensors": partial(_save_safetensors, pair, folder, manifest),
        "torch.save": partial(_save_one, partial(save_torch, manifest=manifest), pair, folder),
        ".tdz": partial(_save_one, save_tdz, pair, folder),
        "DDUF": partial(_save_one, partial(save_dduf, manifest=manifest), pair, folder),
        "write+fsync" if synced else "write": partial(_write, body, folder),
    }
    return Row(
        f"save, {model}{_suffix(synced)}",
        contestants,
        [Target(("safetensors",), 1.2)],
        before=partial(_set_syncing, synced),
        after=partial(_clear, folder),
    )


def change(data: Data, *, work: str, synced: bool) -> Row:
    """Attach, edit or strip in place, against a copy of the file that comes out.

    A file that is replaced is also deleted, which costs by its size, so that is the floor's part too.
    """
    from distillgan import edit_metadata, strip_vocoder
    from distillgan.torch import attach_vocoder

    saved = data.model("big")
    folder = data.fresh("change")
    works: dict[str, Callable[[str], object]] = {
        "attach": partial(attach_vocoder, vocoder_state=saved.pair.vocoder_state, allow_mismatch=True),
        "edit": partial(edit_metadata, description="gutters and rain"),
        "strip": strip_vocoder,
    }
    source = data.folder / "before.distillgan"
    result = data.folder / "after.distillgan"
    target = str(folder / "model.distillgan")
    _copy(saved.ours, source)
    if work == "attach":
        strip_vocoder(source)
    _copy(source, result)
    works[work](str(result))

    def before(_: str) -> None:
        _copy(source, target)
        _set_syncing(synced, _)

    contestants = {
        "ours": partial(works[work], target),
        "copy+replace": partial(_copy_over, result, target),
        "copy": partial(_copy, result, folder / "copy"),
        "shutil.copyfile": partial(_copy_with_shutil, result, folder / "copy"),
    }
    return Row(
        f"{work}, big{_suffix(synced)}",
        contestants,
        [Target(("copy+replace",), 1.3)],
        before=before,
        after=partial(_clear, folder),
    )


def compare(data: Data) -> Row:
    """Say in what two models of 67 MB differ, without reading weights."""
    from distillgan import diff

    first = data.model("big")
    folder = data.fresh("diff")
    name = first.first_name
    changed = Pair(**{**vars(first.pair), "vae": {**first.pair.vae, name: first.pair.vae[name] + 1}})
    second = changed.save(folder)
    found = diff(first.ours, second)
    if [change.name for change in found.components["vae"].changed] != [name]:
        raise AssertionError("diff did not find the changed tensor")
    contestants: dict[str, Any] = {"ours": partial(diff, first.ours, second), "5 ms": 0.005}
    return Row("diff, big", contestants, [Target(("5 ms",), 1.0)])


def _suffix(synced: bool) -> str:
    return ", synced" if synced else ""


def _set_syncing(synced: bool, _: str) -> None:
    os.fsync = _fsync if synced else lambda fd: None


def _clear(folder: Path, _: str) -> None:
    os.fsync = _fsync
    shutil.rmtree(folder)
    folder.mkdir()


def _sync(path: str | os.PathLike[str]) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _save_safetensors(pair: Pair, folder: Path, manifest: str) -> None:
    vae, vocoder = str(folder / "vae"), str(folder / "vocoder")
    save_safetensors(pair, vae, vocoder, manifest)
    _sync(vae)
    _sync(vocoder)


def _save_one(write: Callable[[Pair, str], None], pair: Pair, folder: Path) -> None:
    path = str(folder / "model.tdz")
    write(pair, path)
    _sync(path)


def _write(body: bytes, folder: Path) -> None:
    fd = os.open(folder / "body", os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        view = memoryview(body)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def _copy(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """The cheapest copy there is: inside the kernel, then one fsync."""
    with open(source, "rb") as from_file, open(target, "wb") as to_file:
        left = os.fstat(from_file.fileno()).st_size
        while left > 0:
            left -= os.copy_file_range(from_file.fileno(), to_file.fileno(), left)
        os.fsync(to_file.fileno())


def _copy_over(source: Path, target: str) -> None:
    _copy(source, target + ".tmp")
    os.replace(target + ".tmp", target)


def _copy_with_shutil(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    _sync(target)

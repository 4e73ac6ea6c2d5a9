"""List a library's folder and read what changed: the files decide, the index only helps."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ._index import (
    RACY_NS,
    READ_AGAIN,
    Flaw,
    Listing,
    ModelEntry,
    Record,
    VocoderRecord,
    is_inside,
    is_unicode,
    to_entry,
)
from .container import read_manifest
from .errors import FormatError, ModelNotFoundError
from .labels import clean_facts
from .manifest import MODEL_FILE_EXTENSION, Manifest, Vocoder

_UNREADABLE = "file.unreadable"
_JUNCTION = getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", -1)


class LibraryProblem(NamedTuple):
    """A file or folder of the library that could not be read, and why."""

    path: str
    code: str
    message: str


class Report(NamedTuple):
    """What a refresh found; paths are relative to the library.

    `moved` holds (old, new) paths of models that are elsewhere now, `missing` the paths of models
    that have no file since, `removed` the paths of what left the listing for good, `duplicates`
    every file whose model id another file has too, `problems` what could not be read.
    """

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    moved: tuple[tuple[str, str], ...] = ()
    missing: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()
    problems: tuple[LibraryProblem, ...] = ()


Progress = Callable[[ModelEntry | LibraryProblem], object]


class _Training(msgspec.Struct):
    """The three values of a vocoder's training that a listing shows; any type may be there."""

    epochs: object = None
    final_loss: object = None
    training_date: object = None


_decode_training = msgspec.json.Decoder(_Training).decode


def survey(folder: Path, base: Listing, progress: Progress | None = None) -> tuple[Listing, bool]:
    """The folder as it is now, knowing `base`, and whether an index of `base` would be out of date.

    Raises OSError if the folder itself cannot be listed; one that does not exist is empty.
    """
    now = Listing()
    old_enough = time.time_ns() - RACY_NS
    fresh = []
    for path, entry in _walk(folder, now.flaws):
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        except OSError as error:
            now.flaws[path] = _unreadable(error)
            continue
        record = base.files.get(path)
        if record is None or not _is_same(record, status):
            found = _known_flaw(base.flaws.get(path), status) or _read(path, entry.path, status, old_enough)
            if not isinstance(found, Record):
                if found is not None:
                    now.flaws[path] = found
                continue
            if found != record:
                fresh.append(path)
            record = found
        now.files[path] = record
        if progress is not None:
            progress(to_entry(record))
    if progress is not None:
        for problem in problems(now):
            progress(problem)
    return _reconcile(base, now, fresh)


def compare(before: Listing, now: Listing) -> Report:
    """What is different between two listings of one folder."""
    if before is now:
        return Report(duplicates=_duplicates(now), problems=problems(now))
    ids = {path: record.model_id for path, record in before.files.items()}
    came = {path: r.model_id for path, r in now.files.items() if ids.get(path) != r.model_id}
    left = [r for r in before.records() if r.file_path not in now.files or r.file_path in came]
    homes = {model_id: path for path, model_id in came.items()}
    moved = [
        (r.file_path, homes.pop(r.model_id))
        for r in left
        if homes.get(r.model_id, r.file_path) != r.file_path
    ]
    gone = {r.file_path: r.model_id for r in left}
    for old, new in moved:
        del came[new], gone[old]
    changed = [p for p, r in now.files.items() if ids.get(p) == r.model_id and _differs(before.files[p], r)]
    missing = [p for p, model_id in gone.items() if model_id in now.missing and p in before.files]
    removed = [p for p, model_id in gone.items() if model_id not in now.missing and p not in came]
    return Report(
        tuple(sorted(came)),
        tuple(sorted(changed)),
        tuple(sorted(moved)),
        tuple(sorted(missing)),
        tuple(sorted(removed)),
        _duplicates(now),
        problems(now),
    )


def problems(listing: Listing) -> tuple[LibraryProblem, ...]:
    """The files of a listing that could not be read, by path."""
    return tuple(LibraryProblem(p, flaw.code, flaw.message) for p, flaw in sorted(listing.flaws.items()))


def _walk(folder: Path, flaws: dict[str, Flaw]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything called `.distillgan` that is no link, hidden or a folder, with its path in the library."""
    pending = [(os.fspath(folder), "")]
    while pending:
        path, prefix = pending.pop()
        try:
            entries = os.scandir(path)
        except OSError as error:
            if prefix:
                flaws[prefix[:-1]] = _unreadable(error)
            elif not isinstance(error, FileNotFoundError):
                raise
            continue
        with entries:
            for entry in entries:
                name = entry.name
                if name[0] == "." or entry.is_symlink():
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if not _is_junction(entry):
                        pending.append((entry.path, f"{prefix}{name}/"))
                elif name.endswith(MODEL_FILE_EXTENSION):
                    yield prefix + name, entry


def _is_junction(entry: os.DirEntry[str]) -> bool:
    """Whether a folder is what Windows calls a junction: a link in all but name."""
    return os.name == "nt" and getattr(entry.stat(follow_symlinks=False), "st_reparse_tag", 0) == _JUNCTION


def _is_same(record: Record, status: os.stat_result) -> bool:
    return (
        record.mtime_ns == status.st_mtime_ns
        and record.file_size_bytes == status.st_size
        and record.inode == status.st_ino
    )


def _known_flaw(flaw: Flaw | None, status: os.stat_result) -> Flaw | None:
    """The flaw itself if the file is still the one that has it."""
    if flaw is None:
        return None
    same = (flaw.mtime_ns, flaw.size, flaw.inode) == (status.st_mtime_ns, status.st_size, status.st_ino)
    return flaw if same else None


def _read(path: str, full_path: str, status: os.stat_result, old_enough: int) -> Record | Flaw | None:
    """What a file is; None if it went away. `status` is from before, so a later change is seen next time."""
    mtime_ns = status.st_mtime_ns if status.st_mtime_ns < old_enough else READ_AGAIN
    try:
        record = _to_record(read_manifest(full_path, transport=False), path, status.st_size)
    except ModelNotFoundError:
        return None
    except FormatError as error:
        if error.code == _UNREADABLE:  # permissions change without a trace in the mtime
            mtime_ns = READ_AGAIN
        message = f"{error.where}: {error.message}" if error.where else error.message
        return Flaw(error.code, message, status.st_size, mtime_ns, status.st_ino)
    except OSError as error:
        return _unreadable(error)
    record.mtime_ns, record.inode = mtime_ns, status.st_ino
    return record


def read_id(path: Path) -> str:
    """The id of the model in a file, from the file."""
    return read_manifest(path, transport=False).metadata.model_id


def _to_record(manifest: Manifest, path: str, size: int) -> Record:
    about = manifest.known[0]  # UNSET is false: what the file does not say is unknown, or empty
    return Record(
        about.model_id,
        about.name,
        path,
        size,
        about.description or "",
        about.dataset_name or "",
        _known(about.dataset_file_count),
        _known(about.dataset_total_duration_s),
        about.training_date or "",
        about.save_date,
        _known(about.training_epochs),
        _known(about.final_train_loss),
        _known(about.final_val_loss),
        about.has_analysis or False,
        about.n_active_components or 0,
        tuple(about.tags or ()),
        None if manifest.vocoder is None else _vocoder_info(manifest.vocoder),
    )


def _known(value: Any) -> Any:
    return None if value is msgspec.UNSET else value


def _vocoder_info(vocoder: Vocoder) -> VocoderRecord:
    """Best effort: what `training_metadata` does not say plainly is unknown."""
    raw = vocoder.training_metadata_json
    try:
        told = _Training() if raw is msgspec.UNSET else _decode_training(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        told = _Training()
    return VocoderRecord(vocoder.type, *clean_facts(told.epochs, told.final_loss, told.training_date))


def _unreadable(error: OSError) -> Flaw:
    return Flaw(_UNREADABLE, f"cannot be read: {error.strerror or error}")


def _reconcile(base: Listing, now: Listing, fresh: list[str]) -> tuple[Listing, bool]:
    """Complete `now` by what only `base` knows: the models whose files are gone."""
    gone = [path for path in base.files if path not in now.files] if _lost_some(base, now, fresh) else []
    if not fresh and not gone and now.flaws == base.flaws:
        return base, False
    now.missing = dict(base.missing)
    for path in gone:
        if is_inside(path):  # an index may say anything
            now.missing[base.files[path].model_id] = base.files[path]
    now.settle()
    changed = bool(gone) or any(map(is_unicode, fresh)) or _storable(now.flaws) != _storable(base.flaws)
    return now, changed


def _lost_some(base: Listing, now: Listing, fresh: list[str]) -> bool:
    return bool(fresh) or len(now.files) != len(base.files)


def _storable(flaws: dict[str, Flaw]) -> dict[str, Flaw]:
    return {path: flaw for path, flaw in flaws.items() if is_unicode(path)}


def _duplicates(listing: Listing) -> tuple[str, ...]:
    return tuple(sorted(path for path, record in listing.files.items() if record.state == "duplicate"))


def _differs(before: Record, now: Record) -> bool:
    """Whether a model reads differently; the time stamp alone does not count."""
    return (
        before is not now
        and msgspec.structs.replace(before, mtime_ns=now.mtime_ns, inode=now.inode, state=now.state) != now
    )

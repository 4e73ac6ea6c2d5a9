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
from .container import read_status
from .errors import FormatError, ModelNotFoundError
from .labels import VocoderFacts, clean_facts
from .manifest import MODEL_FILE_EXTENSION, Count, Manifest, Vocoder

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


class _PlainTraining(msgspec.Struct, gc=False):
    """The same three of the types that they mostly have."""

    epochs: Count | None = None
    final_loss: float | None = None
    training_date: str = ""


_decode_training = msgspec.json.Decoder(_Training).decode
_decode_plain_training = msgspec.json.Decoder(_PlainTraining).decode


def survey(folder: Path, base: Listing, progress: Progress | None = None) -> tuple[Listing, bool]:
    """The folder as it is now, knowing `base`, and whether an index of `base` would be out of date.

    Raises OSError if the folder itself cannot be listed; one that does not exist is empty.
    """
    now = Listing()
    old_enough = time.time_ns() - RACY_NS
    fresh = []
    for path, entry in _walk(folder, now.flaws):
        record, flaw = base.files.get(path), base.flaws.get(path)
        if record is None and flaw is None:
            found = _read(path, entry, old_enough)
        else:
            found = _look(path, entry, record, flaw, old_enough)
        if isinstance(found, Flaw):
            now.flaws[path] = found
        elif found is not None:
            now.files[path] = found
            if found is not record and found != record:
                fresh.append(path)
            if progress is not None:
                progress(to_entry(found))
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


def _look(
    path: str, entry: os.DirEntry[str], record: Record | None, flaw: Flaw | None, old_enough: int
) -> Record | Flaw | None:
    """What is known of a file, if it is still the same file; else what it is now."""
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        return _unreadable(error)
    state = status.st_mtime_ns, status.st_size, status.st_ino
    if record is not None and _is_same((record.mtime_ns, record.file_size_bytes, record.inode), state):
        return record
    if flaw is not None and _is_same((flaw.mtime_ns, flaw.size, flaw.inode), state):
        return flaw
    return _read(path, entry, old_enough)


def _is_same(known: tuple[int, int, int], state: tuple[int, int, int]) -> bool:
    """Whether mtime, size and inode are those that are known; Windows lists files with inode 0."""
    return known == state or (not state[2] and known[:2] == state[:2])


def _read(path: str, entry: os.DirEntry[str], old_enough: int) -> Record | Flaw | None:
    """What a file is; None if it went away."""
    try:
        return _to_record(path, *read_status(entry.path, transport=False), old_enough)
    except FormatError:
        return _read_again(path, entry, old_enough)
    except ModelNotFoundError:
        return None
    except OSError as error:
        return _unreadable(error)


def _read_again(path: str, entry: os.DirEntry[str], old_enough: int) -> Record | Flaw | None:
    """What is wrong with a file, with its status from before, so that a later change is seen next time."""
    try:
        status = entry.stat(follow_symlinks=False)
        return _to_record(path, *read_status(entry.path, transport=False), old_enough)
    except (ModelNotFoundError, FileNotFoundError):
        return None
    except FormatError as error:
        # permissions change without a trace in the mtime
        is_settled = status.st_mtime_ns < old_enough and error.code != _UNREADABLE
        message = f"{error.where}: {error.message}" if error.where else error.message
        mtime_ns = status.st_mtime_ns if is_settled else READ_AGAIN
        return Flaw(error.code, message, status.st_size, mtime_ns, status.st_ino)
    except OSError as error:
        return _unreadable(error)


def read_id(path: Path) -> str:
    """The id of the model in a file, from the file."""
    return read_status(path, transport=False)[0].metadata.model_id


def _to_record(path: str, manifest: Manifest, status: os.stat_result, old_enough: int) -> Record:
    about = manifest.known[0]  # UNSET is false: what the file does not say is unknown, or empty
    return Record(
        about.model_id,
        about.name,
        path,
        status.st_size,
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
        "ok",
        status.st_mtime_ns if status.st_mtime_ns < old_enough else READ_AGAIN,
        status.st_ino,
    )


def _known(value: Any) -> Any:
    return None if value is msgspec.UNSET else value


def _vocoder_info(vocoder: Vocoder) -> VocoderRecord:
    """Best effort: what `training_metadata` does not say plainly is unknown."""
    raw = vocoder.training_metadata_json
    if raw is msgspec.UNSET:
        return VocoderRecord(vocoder.type)
    try:
        plain = _decode_plain_training(raw)
        return VocoderRecord(vocoder.type, plain.epochs, plain.final_loss, plain.training_date)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return VocoderRecord(vocoder.type, *_cleaned(raw))


def _cleaned(raw: msgspec.Raw) -> VocoderFacts:
    try:
        told = _decode_training(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return VocoderFacts()
    return clean_facts(told.epochs, told.final_loss, told.training_date)


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

"""The index of a library: what is kept of each file, and `model_library.json` <-> that.

The file is the truth and the index a cache: whatever is wrong with it, the answer is a rescan.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import msgspec

from . import _archive, _atomic
from ._text import printable
from ._version import __version__
from .errors import FormatError
from .manifest import MODEL_FILE_EXTENSION

INDEX_NAME = "model_library.json"
INDEX_VERSION = 2
MAX_INDEX = 256 * 1024 * 1024
RACY_NS = 2_000_000_000  # the coarsest clock of a file system (FAT): a younger file may change unseen
READ_AGAIN = -1  # stands for the mtime of a file that is not known well enough
_WRITTEN_BY = f"distillgan {__version__}"

State = Literal["ok", "missing", "duplicate"]


@dataclass
class VocoderInfo:
    """What a listing says of a model's vocoder. What nobody knows is None or empty."""

    type: str
    epochs: int | None = None
    final_loss: float | None = None
    training_date: str = ""


@dataclass
class ModelEntry:
    """One model of a library. Unknown numbers are None; dates are ISO 8601 text.

    `file_path` is relative to the library and has `/` between its parts.
    """

    model_id: str
    name: str
    file_path: str
    file_size_bytes: int
    description: str = ""
    dataset_name: str = ""
    dataset_file_count: int | None = None
    dataset_total_duration_s: float | None = None
    training_date: str = ""
    save_date: str = ""
    training_epochs: int | None = None
    final_train_loss: float | None = None
    final_val_loss: float | None = None
    has_analysis: bool = False
    n_active_components: int = 0
    tags: list[str] = field(default_factory=list)
    vocoder: VocoderInfo | None = None
    state: State = "ok"


class VocoderRecord(msgspec.Struct, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """A VocoderInfo as the index keeps it."""

    type: str
    epochs: int | None = None
    final_loss: float | None = None
    training_date: str = ""


class Record(msgspec.Struct, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """An entry as the index keeps it: the same fields, and what tells the file's state from another.

    A Struct without garbage collection, because there may be 20,000 of them.
    """

    model_id: str
    name: str
    file_path: str
    file_size_bytes: int
    description: str = ""
    dataset_name: str = ""
    dataset_file_count: int | None = None
    dataset_total_duration_s: float | None = None
    training_date: str = ""
    save_date: str = ""
    training_epochs: int | None = None
    final_train_loss: float | None = None
    final_val_loss: float | None = None
    has_analysis: bool = False
    n_active_components: int = 0
    tags: tuple[str, ...] = ()
    vocoder: VocoderRecord | None = None
    state: State = "ok"
    mtime_ns: int = READ_AGAIN
    inode: int = 0


class Flaw(msgspec.Struct, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """A file that could not be read, as the index keeps it."""

    code: str
    message: str
    size: int = 0
    mtime_ns: int = READ_AGAIN
    inode: int = 0


class Index(msgspec.Struct, forbid_unknown_fields=True):
    """The document. `models` is keyed by model id, the others by path."""

    version: int
    models: dict[str, Record] = {}
    duplicates: dict[str, Record] = {}
    problems: dict[str, Flaw] = {}
    written_by: str = _WRITTEN_BY


class Listing:
    """Everything that is known of a library at one moment.

    `files` are the readable files by path, `missing` the models without a file by id, `flaws` the
    unreadable files by path.
    """

    def __init__(self) -> None:
        self.files: dict[str, Record] = {}
        self.missing: dict[str, Record] = {}
        self.flaws: dict[str, Flaw] = {}
        self.ids: dict[str, list[Record]] = {}

    def settle(self) -> None:
        """Work out from `files` and `missing` which ids there are, and everybody's state."""
        ids: dict[str, list[Record]] = {}
        for record in self.files.values():
            record.state = "ok"
            ids.setdefault(record.model_id, []).append(record)
        for same in ids.values():
            if len(same) > 1:
                for record in same:
                    record.state = "duplicate"
        for model_id in [model_id for model_id in self.missing if model_id in ids]:
            del self.missing[model_id]
        for model_id, record in self.missing.items():
            record.state = "missing"
            ids[model_id] = [record]
        self.ids = ids

    def records(self) -> list[Record]:
        """All models, missing ones included."""
        return [*self.files.values(), *self.missing.values()]


class _VersionOnly(msgspec.Struct):
    version: Any = None


class UnusableIndexError(Exception):
    """Why an index cannot be used; `.keep` when it is another release's and not ours to replace."""

    def __init__(self, reason: str, *, keep: bool = False):
        super().__init__(reason)
        self.keep = keep


_decode = msgspec.json.Decoder(Index).decode
_decode_version = msgspec.json.Decoder(_VersionOnly).decode
_encode = msgspec.json.Encoder().encode
_JSON_ERRORS = (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError)
_entry_values = attrgetter(*(f.name for f in fields(ModelEntry)))


def to_entry(record: Record) -> ModelEntry:
    """The public form of a record; the caller may change it."""
    entry = ModelEntry(*_entry_values(record))
    entry.tags = [*record.tags]
    if record.vocoder is not None:
        vocoder = record.vocoder
        entry.vocoder = VocoderInfo(vocoder.type, vocoder.epochs, vocoder.final_loss, vocoder.training_date)
    return entry


def to_record(entry: ModelEntry) -> Record:
    """A record of an entry whose file will be read again."""
    return msgspec.convert(entry, Record, from_attributes=True)


def is_inside(path: str) -> bool:
    """Whether a path of an index stays in the library and could be listed: plain relative parts."""
    parts = path.split("/")
    if os.name == "nt" and ("\\" in path or ":" in path):
        return False
    return path.endswith(MODEL_FILE_EXTENSION) and not any(not part or part[0] == "." for part in parts)


def is_unicode(path: str) -> bool:
    """Whether a path can stand in JSON; a file name on Linux may hold any bytes."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_index(path: Path) -> tuple[Listing, _atomic.Identity] | None:
    """What the index says, and which state of it that was; None where there is none.

    Raises UnusableIndexError. Records that are too young for their mtime to prove anything are marked
    to be read again.
    """
    try:
        fd = _archive.open_regular(path)
    except FileNotFoundError:
        return None
    except (FormatError, OSError) as error:
        raise UnusableIndexError(error.message if isinstance(error, FormatError) else str(error)) from None
    try:
        found = _atomic.identity(fd)
        body = _read_body(fd)
    except (FormatError, OSError) as error:
        raise UnusableIndexError(error.message if isinstance(error, FormatError) else str(error)) from None
    finally:
        os.close(fd)
    return _to_listing(_decode_index(body), found.mtime_ns), found


def encode_index(listing: Listing) -> bytes:
    """The document of a listing, in a fixed order.

    A file name that is not Unicode is left out, so that file is read anew by each process.
    """
    try:
        return _encode(_to_index(listing))
    except UnicodeEncodeError:
        kept = Listing()
        kept.files = {path: record for path, record in listing.files.items() if is_unicode(path)}
        kept.flaws = {path: flaw for path, flaw in listing.flaws.items() if is_unicode(path)}
        kept.missing = {i: record for i, record in listing.missing.items() if is_unicode(record.file_path)}
        return _encode(_to_index(kept))


def _read_body(fd: int) -> bytes:
    size = _archive.file_status(fd).st_size
    if size > MAX_INDEX:
        raise FormatError("index.size", f"it is larger than {MAX_INDEX // 2**20} MiB")
    return _atomic.read_at(fd, 0, size)


def _decode_index(body: bytes) -> Index:
    try:
        index = _decode(body)
    except _JSON_ERRORS as error:
        raise _explain(body, error) from None
    if index.version != INDEX_VERSION:
        raise _explain(body, None)
    return index


def _explain(body: bytes, error: Exception | None) -> UnusableIndexError:
    try:
        version = _decode_version(body).version
    except _JSON_ERRORS:
        return UnusableIndexError(f"it is damaged ({error})")
    if type(version) is int and version > INDEX_VERSION:
        return UnusableIndexError(f"its version {version} is newer, so it is left as it is", keep=True)
    if version != INDEX_VERSION:
        return UnusableIndexError(f"it has version {printable(str(version))[:40]}, not {INDEX_VERSION}")
    return UnusableIndexError(f"another program wrote it ({error})")


def _to_listing(index: Index, written_ns: int) -> Listing:
    listing = Listing()
    horizon = written_ns - RACY_NS
    for record in (*index.models.values(), *index.duplicates.values()):
        if record.mtime_ns >= horizon:
            record.mtime_ns = READ_AGAIN
        if record.state != "missing":
            listing.files[record.file_path] = record
        elif is_inside(record.file_path):
            listing.missing[record.model_id] = record
    for path, flaw in index.problems.items():
        if flaw.mtime_ns >= horizon or index.written_by != _WRITTEN_BY:  # a new release may read it
            flaw.mtime_ns = READ_AGAIN
        listing.flaws[path] = flaw
    return listing


def _to_index(listing: Listing) -> Index:
    index = Index(INDEX_VERSION)
    for path, record in sorted(listing.files.items()):
        if record.state == "duplicate":
            index.duplicates[path] = record
        else:
            index.models[record.model_id] = record
    index.models.update(sorted(listing.missing.items()))
    index.problems = dict(sorted(listing.flaws.items()))
    return index

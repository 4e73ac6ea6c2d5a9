"""The model library: every `.distillgan` file of a folder, from manifests alone.

The files are the truth; `model_library.json` only saves reading them again. Paths come from listing
the folder, never from the index.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec

from . import _atomic, labels
from ._index import (
    INDEX_NAME,
    MAX_INDEX,
    Listing,
    ModelEntry,
    Record,
    State,
    UnusableIndexError,
    VocoderInfo,
    encode_index,
    is_inside,
    read_index,
    to_entry,
    to_record,
)
from ._survey import LibraryProblem, Progress, Report, compare, problems, read_id, survey
from ._text import printable
from .errors import (
    LEGACY_REFERENCE,
    AmbiguousModelError,
    DistillganError,
    LegacyFormatError,
    ModelNotFoundError,
)

__all__ = [
    "LibraryProblem",
    "ModelEntry",
    "ModelLibrary",
    "Progress",
    "Report",
    "VocoderInfo",
    "delete_model",
]

_LOCK_SECONDS = 2.0
_MOST_MATCHES = 10
_TEXT_FIELDS = ("name", "description", "dataset_name", "model_id", "file_path", "state")
SORT_FIELDS = (
    *_TEXT_FIELDS, "save_date", "training_date", "training_epochs", "final_train_loss", "final_val_loss",
    "dataset_file_count", "dataset_total_duration_s", "has_analysis", "n_active_components",
    "file_size_bytes", "vocoder",
)  # fmt: skip


class ModelLibrary:
    """The models in a folder and its subfolders; hidden ones and links are not among them.

    Opening lists the folder and reads the manifests that changed since the index was written. A
    library that is held changes on `refresh`. What it returns belongs to the caller. `progress` is
    told each file's entry or problem while the folder is listed, before duplicates are known.
    """

    def __init__(self, models_dir: str | os.PathLike[str], *, progress: Progress | None = None):
        self.folder = Path(models_dir)
        self._index_path = self.folder / INDEX_NAME
        self._index_state: _atomic.Identity | None = None
        self._index_kept = False
        self._dirty = False
        self._has_lock = False
        self._listing = Listing()
        self._listing = self._load()
        self.report = self.refresh(progress)
        self._opened = self._id_counts()

    def refresh(self, progress: Progress | None = None) -> Report:
        """List the folder again, read what changed, and say what is different now."""
        before = self._listing
        self._listing = self._survey(self._load(), progress)
        if self._dirty:
            with self._locked():
                newest = self._load()
                if newest is not self._listing:
                    self._listing = self._survey(newest)
                self._write()
        self.report = compare(before, self._listing)
        return self.report

    def get(self, model_id: str) -> ModelEntry | None:
        """The model with that id; AmbiguousModelError if two files have it."""
        found = self._listing.ids.get(model_id)
        if found is None:
            return None
        if len(found) > 1:
            raise _same_id(model_id, found)
        return to_entry(found[0])

    def list_all(self, sort_by: str = "save_date", reverse: bool = True) -> list[ModelEntry]:
        """All models by a field of `ModelEntry`; those where it is unknown come last either way."""
        return _sorted(self._listing.records(), sort_by, reverse)

    def search(
        self,
        query: str = "",
        tags: Iterable[str] | None = None,
        sort_by: str = "save_date",
        reverse: bool = True,
    ) -> list[ModelEntry]:
        """Models with `query` in name or description, and any of `tags` if given; case is ignored."""
        wanted = query.casefold()
        any_of = {tag.casefold() for tag in tags or ()}
        found = [
            record
            for record in self._listing.records()
            if (wanted in record.name.casefold() or wanted in record.description.casefold())
            and (not any_of or not any_of.isdisjoint(tag.casefold() for tag in record.tags))
        ]
        return _sorted(found, sort_by, reverse)

    def count(self) -> int:
        """How many models are listed, missing ones included."""
        return len(self._listing.files) + len(self._listing.missing)

    def with_state(self, state: State) -> list[ModelEntry]:
        """The models that are `ok`, `missing` or `duplicate`, by path."""
        return _sorted([r for r in self._listing.records() if r.state == state], "file_path", False)

    @property
    def problems(self) -> list[LibraryProblem]:
        """The files that could not be read, by path."""
        return list(problems(self._listing))

    def path_of(self, entry: ModelEntry) -> Path:
        """Where the file of an entry is, or was."""
        if not is_inside(entry.file_path):
            raise ValueError(f"{entry.file_path!r} is not a path inside a library")
        return self.folder / entry.file_path

    def resolve(self, ref: str) -> ModelEntry:
        """The model that an id, an exact name or a unique beginning of an id stands for.

        Raises ModelNotFoundError, AmbiguousModelError, LegacyFormatError for `*.distill`.
        """
        if ref.endswith(".distill"):
            raise LegacyFormatError(LEGACY_REFERENCE, path=ref)
        entry = self.get(ref)
        if entry is not None:
            return entry
        records = self._listing.records()
        found = [record for record in records if record.name == ref]
        found = found or [record for record in records if ref and record.model_id.startswith(ref)]
        if not found:
            raise ModelNotFoundError(f"Model not found: {ref}" + _near_names(ref, records))
        if len(found) > 1:
            raise _ambiguous(ref, found)
        return to_entry(found[0])

    def repair_index(self) -> tuple[int, int]:
        """Read every file anew, forget missing models, and write the index.

        Returns how many models were removed and added since the library was opened.
        """
        before = self._listing
        with self._locked():
            self._load()
            self._listing = self._survey(Listing())
            self._dirty = True
            self._write()
        if self._dirty and not self._index_kept:
            _warn(f"{self._index_path} could not be written: each program will read the files again.")
        self.report = compare(before, self._listing)
        then, self._opened = self._opened, self._id_counts()
        return (then - self._opened).total(), (self._opened - then).total()

    def delete(self, model_id: str) -> bool:
        """Delete a model's file after reading its id once more; False if there is no such file.

        Raises AmbiguousModelError if two files have that id, DistillganError if the file holds
        another model by now.
        """
        entry = self.get(model_id)
        if entry is not None and not os.path.lexists(self.path_of(entry)):
            self.refresh()
            entry = self.get(model_id)
        if entry is None or entry.state == "missing":
            return False
        path = self.path_of(entry)
        try:
            with self._locked():
                _check_deletable(self.folder, path, model_id)
                self._forget(model_id, entry.file_path)  # first: a kill here leaves a file to list
                os.unlink(path)
        except (FileNotFoundError, ModelNotFoundError):
            return False
        except OSError:
            self.refresh()
            raise
        return True

    def add_entry(self, entry: ModelEntry) -> None:
        """Take an entry into the held listing and the index, in place of one with its path.

        For callers that hold an entry already; the next refresh reads the file, which is the truth.
        """
        self.path_of(entry)
        try:
            record = to_record(entry)
        except msgspec.ValidationError as error:
            raise ValueError(f"not a model entry: {error}") from None
        with self._locked():
            self._listing = self._load()
            self._listing.files[record.file_path] = record
            self._settle_and_write()

    def remove(self, model_id: str) -> bool:
        """Take a model out of the held listing and the index; its file stays and a refresh lists it."""
        with self._locked():
            return self._forget(model_id)

    def __len__(self) -> int:
        return self.count()

    def __iter__(self) -> Iterator[ModelEntry]:
        return iter(self.list_all())

    def __repr__(self) -> str:
        return f"<ModelLibrary {printable(str(self.folder))}: {self.count()} models>"

    def _id_counts(self) -> Counter[str]:
        return Counter(record.model_id for record in self._listing.records())

    def _load(self) -> Listing:
        """The listing of the index if it changed since we saw it, else the one we hold."""
        state = _state_of(self._index_path)
        if state == self._index_state:
            return self._listing
        self._index_state, self._index_kept = state, False
        try:
            found = read_index(self._index_path)
        except UnusableIndexError as problem:
            _warn(f"{self._index_path} is not used: {problem}. The files are read again.")
            self._index_kept, self._dirty = problem.keep, True
            return self._listing
        if found is None:
            self._dirty = True
            return self._listing
        listing, self._index_state = found
        listing.settle()
        return listing

    def _survey(self, base: Listing, progress: Progress | None = None) -> Listing:
        listing, changed = survey(self.folder, base, progress)
        self._dirty = self._dirty or changed
        return listing

    def _forget(self, model_id: str, path: str | None = None) -> bool:
        """Drop a model, or the one file of it at `path`, from the listing and the index."""
        listing = self._listing = self._load()
        known = listing.ids.get(model_id, [])
        for record in [record for record in known if path in (None, record.file_path)]:
            listing.files.pop(record.file_path, None)
        listing.missing.pop(model_id, None)
        self._settle_and_write()
        return bool(known)

    def _settle_and_write(self) -> None:
        self._listing.settle()
        self._dirty = True
        self._write()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the library's lock if it can be had; without it `_write` does nothing."""
        with contextlib.ExitStack() as stack:
            if not self._index_kept and os.access(self.folder, os.W_OK):
                with contextlib.suppress(OSError):
                    stack.enter_context(_atomic.library_lock(self.folder, timeout=_LOCK_SECONDS))
                    self._has_lock = True
            try:
                yield
            finally:
                self._has_lock = False

    def _write(self) -> None:
        """Write the index; where that cannot be, the answers are the same."""
        if not self._has_lock or self._index_kept:
            return
        body = encode_index(self._listing)
        if len(body) > MAX_INDEX:
            return
        with contextlib.suppress(OSError):
            with _atomic.draft(self.folder) as draft:
                draft.file.write(body)
                draft.replace(self._index_path)
            self._index_state = _state_of(self._index_path)
            self._dirty = False


def delete_model(model_id: str, models_dir: str | os.PathLike[str]) -> bool:
    """Delete the file of the model with that id; False if there is none. See `ModelLibrary.delete`."""
    return ModelLibrary(models_dir).delete(model_id)


def _state_of(path: Path) -> _atomic.Identity | None:
    try:
        return _atomic.identity(path)
    except OSError:
        return None


def _warn(text: str) -> None:
    import logging  # 4 ms that only a warning should cost

    logging.getLogger(__name__).warning("%s", printable(text))


def _check_deletable(folder: Path, path: Path, model_id: str) -> None:
    """Refuse a file that lies outside the library or holds another model by now."""
    home = os.path.realpath(folder)
    if os.path.realpath(path.parent) != os.path.normpath(os.path.join(home, path.parent.relative_to(folder))):
        raise DistillganError(f"{path} lies behind a link, outside the library; nothing was deleted.")
    before = _atomic.identity(path)
    found = read_id(path)
    if found != model_id:
        raise DistillganError(f"{path} holds another model by now ({found}); nothing was deleted.")
    if _atomic.identity(path) != before:
        raise DistillganError(f"{path} was changed in the meantime; nothing was deleted.")


def _sorted(records: list[Record], sort_by: str, reverse: bool) -> list[ModelEntry]:
    value = _sort_value(sort_by)
    by_path = sorted(records, key=lambda record: record.file_path)
    valued = [(value(record), record) for record in by_path]
    known = [pair for pair in valued if pair[0] is not None]
    known.sort(key=lambda pair: pair[0], reverse=reverse)
    unknown = [pair for pair in valued if pair[0] is None]
    return [to_entry(record) for _, record in (*known, *unknown)]


def _sort_value(sort_by: str) -> Callable[[Record], Any]:
    """What to sort a record by; it gives None where that is unknown."""
    if sort_by not in SORT_FIELDS:
        raise ValueError(f"cannot sort by {sort_by!r}; there are {', '.join(SORT_FIELDS)}")
    if sort_by == "vocoder":
        return _vocoder_value
    field = attrgetter(sort_by)
    if sort_by.endswith("_date"):
        return lambda record: _moment(field(record))
    if sort_by in _TEXT_FIELDS:
        return lambda record: field(record).casefold() or None
    return field


def _vocoder_value(record: Record) -> tuple[str, int] | None:
    vocoder = record.vocoder
    return None if vocoder is None else (labels.vocoder_name(vocoder.type), vocoder.epochs or 0)


def _moment(text: str) -> datetime | None:
    """A date that can be compared, whatever its offset from UTC; None for other text."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _ambiguous(ref: str, found: list[Record]) -> AmbiguousModelError:
    """Name the matches by what tells them apart: their names, else their ids."""
    names = {record.name for record in found}
    matches = sorted(names) if len(names) == len(found) else sorted(record.model_id for record in found)
    shown = _quoted(matches)
    return AmbiguousModelError(
        f"Ambiguous model reference '{ref}'. Matches: {shown}. Use the model ID to be specific."
    )


def _same_id(model_id: str, found: list[Record]) -> AmbiguousModelError:
    shown = _quoted(sorted(record.file_path for record in found))
    return AmbiguousModelError(
        f"Ambiguous model reference '{model_id}'. Matches: {shown}. "
        "These files have the same model ID: give one of them its own with `distillgan edit FILE --new-id`."
    )


def _quoted(texts: list[str]) -> str:
    more = f" and {len(texts) - _MOST_MATCHES} more" if len(texts) > _MOST_MATCHES else ""
    return ", ".join(f"'{text}'" for text in texts[:_MOST_MATCHES]) + more


def _near_names(ref: str, records: list[Record]) -> str:
    """A second sentence with up to three names like `ref`, or nothing."""
    from difflib import get_close_matches  # 2 ms that only a wrong name should cost

    names = {record.name.casefold(): record.name for record in records}
    near = [names[name] for name in get_close_matches(ref.casefold(), names, n=3)]
    if not near:
        return ""
    first, last = _quoted(near[:-1]), _quoted(near[-1:])
    return f". Did you mean {first} or {last}?" if first else f". Did you mean {last}?"

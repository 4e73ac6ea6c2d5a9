"""A library as the page asks for it: questions in, HTML out, one change at a time."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from . import _page_html as html
from ._page_facts import Glance, glance
from ._page_html import Batch, entry_key
from .catalog import ModelEntry, ModelLibrary
from .errors import AmbiguousModelError, ModelNotFoundError

BATCH = 200  # cards or rows that are sent at once
SORTS = {
    "Newest": ("save_date", True),
    "Oldest": ("save_date", False),
    "Name": ("name", False),
    "Dataset": ("dataset_name", False),
    "Most epochs": ("training_epochs", True),
    "Lowest loss": ("final_val_loss", False),
    "Vocoder": ("vocoder", False),
    "Largest": ("file_size_bytes", True),
}
_MOST_TAGS = 500


class Question(msgspec.Struct, frozen=True):
    """What the page was asked to list; the browser sends it back for the next batch."""

    query: str = ""
    tags: list[str] = []
    sort: str = "Newest"
    view: str = "Cards"
    start: int = 0


class Shelf:
    """A library for several requests at a time: one lock, entries by key, listings as HTML."""

    def __init__(self, library: ModelLibrary):
        self.library = library
        self.folder = str(library.folder)
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """List the folder again."""
        with self._lock:
            self.library.refresh()

    def entry(self, key: Mapping[str, Any] | None) -> ModelEntry:
        """The model of a key, by id; the path decides between duplicates.

        Raises ModelNotFoundError.
        """
        key = key or {}
        try:
            entry = self.library.get(str(key.get("id")))
        except AmbiguousModelError:
            entry = next((entry for entry in self.library.list_all() if entry_key(entry) == key), None)
        if entry is None:
            raise ModelNotFoundError(
                "This model is not in the library any more. Go back and refresh the list."
            )
        return entry

    def path(self, entry: ModelEntry) -> str:
        """The absolute path of an entry's file."""
        return os.path.abspath(self.library.path_of(entry))

    def tags(self) -> list[str]:
        """The library's tags, the most used first."""
        counts = Counter(tag for entry in self.library.list_all() for tag in entry.tags)
        return [tag for tag, _ in counts.most_common(_MOST_TAGS)]

    def listing(self, question: Question) -> str:
        """The first batch of what a question finds."""
        entries, batch = self._batch(question)
        if not batch.total:
            return html.render_empty(self.library.count(), self.folder)
        return html.render_listing(entries, self._glances(entries), question.view, batch)

    def more(self, question: Question) -> str:
        """The batch from `question.start` on."""
        entries, batch = self._batch(question)
        return html.render_batch(entries, self._glances(entries), question.view, batch)

    def summary(self, question: Question) -> str:
        """Counts, and the files that cannot be read."""
        library = self.library
        return html.render_summary(len(self._found(question)), library.count(), self.folder, library.problems)

    @contextlib.contextmanager
    def changing(self, key: Mapping[str, Any] | None) -> Iterator[ModelEntry]:
        """The model of a key as it is now, for a change; the folder is listed before and after."""
        with self._lock:
            self.library.refresh()
            try:
                yield self.entry(key)
            finally:
                self.library.refresh()

    def _found(self, question: Question) -> list[ModelEntry]:
        field, falling = SORTS.get(question.sort, SORTS["Newest"])
        return self.library.search(question.query, question.tags, sort_by=field, reverse=falling)

    def _batch(self, question: Question) -> tuple[list[ModelEntry], Batch]:
        found = self._found(question)
        start = max(question.start, 0)
        entries = found[start : start + BATCH]
        return entries, Batch(msgspec.to_builtins(question), start + len(entries), len(found))

    def _glances(self, entries: list[ModelEntry]) -> dict[str, Glance]:
        return {
            entry.file_path: glance(self.library.path_of(entry), entry.vocoder is not None)
            for entry in entries
            if entry.state != "missing"
        }

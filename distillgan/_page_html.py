"""The library page as HTML text: cards, table, an opened model. Everything shown goes through `to_html`.

Knows no gradio and opens no file.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple
from urllib.parse import quote

from . import labels
from ._page_facts import Glance
from ._text import printable
from .catalog import LibraryProblem, ModelEntry
from .labels import size_text

TABLE_COLUMNS = (
    "Name", "Dataset", "Epochs", "Val loss", "Vocoder", "Size", "Trained", "Tags", "State",
)  # fmt: skip
_NUMBERS = ("Epochs", "Val loss", "Size")
_MOST_PROBLEMS = 100
_CURES = (  # the beginning of a code, and what helps
    ("file.unreadable", "Change the file's permissions so that you can read it."),
    ("legacy", "Retrain the model; nothing reads that format any more."),
    ("manifest.version", "Upgrade distillgan: pip install --upgrade distillgan."),
    ("zip.truncated", "Copy or download the file again; it is shorter than it was."),
    ("file", "This is something else under a model's name: rename it, or move it out of the library."),
    ("", "Get the file again: copy or download it anew."),
)
SALVAGE = "Until then, `distillgan unpack FILE -d saved` takes out what is whole."
_STATES = {
    "missing": "Missing: the file is not there any more. Put it back, or open the model and forget it.",
    "duplicate": "Duplicate: another file has the same model ID. "
    "Open one of them and give it an ID of its own; then it can be deleted, too.",
}


class Batch(NamedTuple):
    """Where in a listing some cards or rows are: the question that is asked again for the rest."""

    ask: Mapping[str, Any]
    shown: int
    total: int


def entry_key(entry: ModelEntry) -> dict[str, str]:
    """What selects an entry: its id, and its file because duplicates share their id.

    The file is percent-encoded, because its name need not be Unicode; `path` would mean an upload to gradio.
    """
    return {"id": entry.model_id, "file": quote(os.fsencode(entry.file_path))}


def render_cards(entries: Iterable[ModelEntry], glances: Mapping[str, Glance] | None = None) -> str:
    """A card for each entry; `glances`, by `file_path`, tell of previews and mismatched vocoders."""
    glances = glances or {}
    return "".join(_card(entry, glances.get(entry.file_path, Glance())) for entry in entries)


def table_rows(entries: Iterable[ModelEntry]) -> list[list[str]]:
    """The cells of each entry, under `TABLE_COLUMNS`."""
    return [_row(entry) for entry in entries]


def render_listing(
    entries: Sequence[ModelEntry], glances: Mapping[str, Glance], view: str, batch: Batch
) -> str:
    """The first cards or rows of a listing, in their frame."""
    inner = render_batch(entries, glances, view, batch)
    if view == "Cards":
        return f'<div class="dg-cards">{inner}</div>'
    heads = "".join(f'<th scope="col"{_number(name)}>{name}</th>' for name in TABLE_COLUMNS)
    return (
        '<div class="dg-scroll" tabindex="0" role="region" aria-label="Models"><table class="dg-table">'
        f"<thead><tr>{heads}</tr></thead><tbody>{inner}</tbody></table></div>"
    )


def render_batch(
    entries: Sequence[ModelEntry], glances: Mapping[str, Glance], view: str, batch: Batch
) -> str:
    """More cards or rows of a listing, and what asks for the next ones."""
    rest = batch.total - batch.shown
    ask = f'data-more="{escape(json.dumps({**batch.ask, "start": batch.shown}))}"'
    button = f'<button type="button" class="dg-button" {ask}>Show more ({rest:,} left)</button>'
    if view == "Cards":
        more = f'<div class="dg-more" data-batch>{button}</div>' if rest else ""
        return render_cards(entries, glances) + more
    rows = "".join(_table_row(entry, glances.get(entry.file_path, Glance())) for entry in entries)
    span = len(TABLE_COLUMNS)
    return rows + (f'<tr data-batch><td colspan="{span}" class="dg-more">{button}</td></tr>' if rest else "")


def render_summary(shown: int, total: int, folder: str, problems: Sequence[LibraryProblem]) -> str:
    """How many models there are, and the files that cannot be read, with reason and cure."""
    count = f"{total:,} model{'' if total == 1 else 's'}"
    found = count if shown == total else f"{shown:,} of {count}"
    again = '<button type="button" class="dg-button" data-refresh>Refresh</button>'
    line = f'<span role="status"><strong>{found}</strong> in {to_html(folder)}</span> {again}'
    line = f'<p class="dg-count">{line}</p>'
    if not problems:
        return line
    rows = "".join(map(_problem_row, problems[:_MOST_PROBLEMS]))
    more = len(problems) - _MOST_PROBLEMS
    if more > 0:
        rows += f"<li>and {more:,} more; <code>distillgan catalog scan</code> names them all</li>"
    title = "1 file cannot be read" if len(problems) == 1 else f"{len(problems):,} files cannot be read"
    is_open = " open" if len(problems) < 4 else ""
    return f'{line}<details class="dg-note bad"{is_open}><summary>{title}</summary><ul>{rows}</ul></details>'


def render_empty(total: int, folder: str) -> str:
    """What to do next when there is nothing to show."""
    if total:
        return (
            '<div class="dg-empty"><h3>No model matches</h3>'
            "<p>Try a part of a name or a description, or take out a tag. "
            "Tags widen: a model needs only one of them.</p></div>"
        )
    pack = f"distillgan pack CHECKPOINT.pt --library {shlex.quote(folder)}"
    return (
        '<div class="dg-empty"><h3>No models yet</h3>'
        f"<p>Make one of a training checkpoint, then press Refresh:</p>{code_block('shell', pack)}"
        f"<p>Or copy <code>.distillgan</code> files into <code>{to_html(folder)}</code>.</p></div>"
    )


def render_message(title: str, body: str, kind: str) -> str:
    """A note with a title in words; `body` is HTML, `kind` is good, bad or warn."""
    return f'<div class="dg-note {kind}" role="status"><strong>{to_html(title)}</strong>{body}</div>'


def render_text(text: str, kind: str = "bad") -> str:
    """A note of plain text."""
    return f'<div class="dg-note {kind}" role="status">{to_html(text)}</div>'


def to_html(text: str) -> str:
    """Text that draws itself and is no markup."""
    return escape(printable(text, keep="\n\t"))


def prose(text: str) -> str:
    """A sentence of ours, its `commands` set as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", to_html(text))


def key_attribute(entry: ModelEntry) -> str:
    return escape(json.dumps(entry_key(entry)))


def _number(column: str) -> str:
    return ' class="num"' if column in _NUMBERS else ""


def _card(entry: ModelEntry, seen: Glance) -> str:
    lines = "".join(f"<p>{to_html(line)}</p>" for line in _card_lines(entry) if line)
    return (
        f'<article class="dg-card" data-open="{key_attribute(entry)}"><header>{_open_button(entry, "h3")}'
        f"{play_button(entry) if seen.has_preview else ''}</header>"
        f"{badge(entry)}{lines}{tag_row(entry.tags)}{state_notes(entry, seen)}</article>"
    )


def _open_button(entry: ModelEntry, tag: str) -> str:
    key, name = key_attribute(entry), to_html(entry.name) or "(no name)"
    return f'<{tag}><button type="button" class="dg-name" data-open="{key}">{name}</button></{tag}>'


def play_button(entry: ModelEntry) -> str:
    label = f"Listen to {to_html(entry.name)}"
    return (
        f'<button type="button" class="dg-play" data-listen="{key_attribute(entry)}" aria-label="{label}" '
        f'title="Listen" aria-pressed="false"></button>'
    )


def badge(entry: ModelEntry) -> str:
    """The green pill of a vocoder, its epochs, its loss to four places."""
    vocoder = entry.vocoder
    if vocoder is None:
        return ""
    facts = []
    if vocoder.epochs is not None:
        facts.append("1 epoch" if vocoder.epochs == 1 else f"{vocoder.epochs:,} epochs")
    if vocoder.final_loss is not None:
        facts.append(f"loss {labels.loss_text(vocoder.final_loss)}")
    name, told = to_html(labels.vocoder_name(vocoder.type)) or "vocoder", ", ".join(facts)
    return f'<p class="dg-vocoder"><span class="dg-pill">{name}</span> <span>{told}</span></p>'


def _card_lines(entry: ModelEntry) -> Iterator[str]:
    count = entry.dataset_file_count
    files = "" if count is None else f"{count:,} file{'' if count == 1 else 's'}"
    yield ", ".join(filter(None, (entry.dataset_name, files)))
    epochs = "" if entry.training_epochs is None else f"{entry.training_epochs:,} epochs"
    trained = entry.training_date[:10] and f"trained {entry.training_date[:10]}"
    yield ", ".join(filter(None, (trained, epochs)))
    parts = "VAE" if entry.vocoder is None else f"VAE and {labels.vocoder_name(entry.vocoder.type)}"
    yield f"{parts}, {size_text(entry.file_size_bytes)}"


def tag_row(tags: Sequence[str]) -> str:
    if not tags:
        return ""
    return f'<p class="dg-tags">{"".join(f"<span>{to_html(tag)}</span>" for tag in tags)}</p>'


def state_notes(entry: ModelEntry, seen: Glance) -> str:
    notes = [(_STATES[entry.state], "bad")] if entry.state != "ok" else []
    if seen.mismatches:
        cure = "Attach one that was trained for this model: `distillgan attach`."
        notes.append((f"Mismatched vocoder: {'; '.join(seen.mismatches)}. {cure}", "warn"))
    return "".join(f'<p class="dg-note {kind}">{prose(text)}</p>' for text, kind in notes)


def _row(entry: ModelEntry) -> list[str]:
    vocoder = entry.vocoder
    return [
        entry.name,
        entry.dataset_name,
        "" if entry.training_epochs is None else str(entry.training_epochs),
        "" if entry.final_val_loss is None else labels.loss_text(entry.final_val_loss),
        "" if vocoder is None else labels.vocoder_short(vocoder.type, vocoder.epochs),
        size_text(entry.file_size_bytes),
        entry.training_date[:10],
        ", ".join(entry.tags),
        "" if entry.state == "ok" else entry.state,
    ]


def _table_row(entry: ModelEntry, seen: Glance) -> str:
    cells = _row(entry)[1:]
    play = play_button(entry) if seen.has_preview else ""
    reason = _STATES.get(entry.state, "")
    if seen.mismatches:
        cells[-1] = ", ".join(filter(None, (cells[-1], "mismatched")))
        reason = " ".join(filter(None, (reason, "Mismatched vocoder: " + "; ".join(seen.mismatches))))
    tds = "".join(
        f"<td{_number(column)}>{to_html(cell)}</td>"
        for column, cell in zip(TABLE_COLUMNS[1:-1], cells[:-1], strict=True)
    )
    state = f'<td class="state"><span title="{to_html(reason)}">{to_html(cells[-1])}</span></td>'
    head = f'<th scope="row">{_open_button(entry, "div")}{play}</th>'
    return f'<tr data-open="{key_attribute(entry)}">{head}{tds}{state}</tr>'


def _problem_row(problem: LibraryProblem) -> str:
    return (
        f"<li><strong>{to_html(problem.path)}</strong> <code>{to_html(problem.code)}</code> "
        f"{to_html(problem.message)}<br>{cure_of(problem.code)}</li>"
    )


def cure_of(code: str) -> str:
    return next(prose(cure) for beginning, cure in _CURES if code.startswith(beginning))


def code_block(language: str, text: str) -> str:
    return (
        f'<div class="dg-code"><pre tabindex="0" aria-label="{language}">{to_html(text)}</pre>'
        f'<button type="button" class="dg-button" data-copy>Copy</button></div>'
    )

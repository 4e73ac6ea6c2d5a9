"""An opened model as HTML text, and what is said of it: verdicts, questions."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from ._page_facts import Glance, ModelFacts
from ._page_html import (
    SALVAGE,
    badge,
    code_block,
    cure_of,
    key_attribute,
    play_button,
    prose,
    render_message,
    state_notes,
    tag_row,
    to_html,
)
from ._page_svg import analysis_pictures
from ._safetensors import TensorSpec
from ._text import printable
from .catalog import ModelEntry
from .labels import size_text
from .pairing import UNRECORDED, Pairing
from .verify import Problem


def render_model(entry: ModelEntry, facts: ModelFacts, path: str) -> str:
    """An opened model: everything that its file says without its weights."""
    return "".join(
        (
            _heading(entry),
            _problems_of(facts),
            _listen(entry, facts.has_preview),
            _pairing(facts.pairing),
            _analysis(facts.analysis),
            _section("About", _fields(facts.fields)),
            _section("Load it", _load_lines(path, facts)),
            "".join(_config(title, config) for title, config in facts.configs.items()),
            "".join(_tensors(component, specs) for component, specs in facts.tensors.items()),
        )
    )


def render_unread(entry: ModelEntry, path: str, reason: str) -> str:
    """An opened model whose file is gone or cannot be read: what the index knows."""
    known = [("File", path), ("Id", entry.model_id), ("Dataset", entry.dataset_name)]
    known += [("Trained", entry.training_date[:10]), ("Saved", entry.save_date)]
    note = f'<div class="dg-note bad">{to_html(reason)}</div>' if reason else ""
    return _heading(entry) + note + _section("About", _fields([pair for pair in known if pair[1]]))


def render_progress(done: int, size: int) -> str:
    """How far verifying is, in bytes."""
    text = f"Reading every byte: {size_text(done)} of {size_text(size)}"
    bar = f'<progress max="{size or 1}" value="{done}" aria-label="Verified"></progress>'
    return f'<div class="dg-note"><p>{text}</p>{bar}</div>'


def render_verdict(problems: Sequence[Problem], mismatches: Sequence[str] = ()) -> str:
    """What verifying found."""
    if problems:
        rows = "".join(
            f"<li><code>{to_html(p.code)}</code> {to_html(': '.join(filter(None, p[1:])))}</li>"
            for p in problems
        )
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        cure = f"<p>{cure_of(problems[0].code)} {prose(SALVAGE)}</p>"
        return render_message(f"Damaged: {count}", f"<ul>{rows}</ul>{cure}", "bad")
    warning = (
        f"<p>Warning: the vocoder does not match: {to_html('; '.join(mismatches))}.</p>" if mismatches else ""
    )
    return render_message("Intact", f"<p>Every byte is what was saved.</p>{warning}", "good")


def render_question(entry: ModelEntry, path: str) -> str:
    """Whether to delete, with the model's name."""
    return (
        f'<div class="dg-note bad" role="alert"><strong>Delete “{to_html(entry.name)}”?</strong>'
        f"<p>{to_html(path)}, {size_text(entry.file_size_bytes)}. There is no way back.</p></div>"
    )


def _heading(entry: ModelEntry) -> str:
    about = f'<p class="dg-description">{to_html(entry.description)}</p>' if entry.description else ""
    return (
        f'<h2 tabindex="-1">{to_html(entry.name) or "(no name)"}</h2>'
        f"{badge(entry)}{about}{tag_row(entry.tags)}{state_notes(entry, Glance())}"
    )


def _problems_of(facts: ModelFacts) -> str:
    if not facts.problems:
        return ""
    rows = "".join(f"<li>{to_html(problem)}</li>" for problem in facts.problems)
    return render_message(
        "This file is damaged", f"<ul>{rows}</ul><p>{cure_of('')} {prose(SALVAGE)}</p>", "bad"
    )


def _listen(entry: ModelEntry, has_preview: bool) -> str:
    if not has_preview:
        return (
            '<p class="dg-quiet">No preview. Add a short sound with Edit, '
            "or with <code>distillgan edit FILE --preview SOUND</code>.</p>"
        )
    return (
        f'<div class="dg-sound" data-sound="{key_attribute(entry)}">{play_button(entry)}'
        '<div class="dg-wave"></div></div>'
    )


def _pairing(pairing: Pairing | None) -> str:
    if pairing is None:
        return ""
    matches = "".join(f"<li>{to_html(line)}</li>" for line in pairing.matches)
    unknown = "".join(f"<li>unknown: {to_html(line)}</li>" for line in pairing.unknown)
    details = f"<details><summary>What was compared</summary><ul>{matches}{unknown}</ul></details>"
    kind = "warn" if pairing.mismatches else "good" if pairing.matches else ""
    return f'<div class="dg-note {kind}">Vocoder: {to_html(pairing.verdict)} ({UNRECORDED}).{details}</div>'


def _section(title: str, body: str, *, is_open: bool = True) -> str:
    opened = " open" if is_open else ""
    return f'<details class="dg-section"{opened}><summary>{to_html(title)}</summary>{body}</details>'


def _fields(fields: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f"<dt>{to_html(label)}</dt><dd>{to_html(value)}</dd>" for label, value in fields)
    return f"<dl>{rows}</dl>"


def _load_lines(path: str, facts: ModelFacts) -> str:
    lines = ["from distillgan.torch import load_model", "", f"loaded = load_model({path!r})"]
    if facts.pairing is not None:
        lines.append('vocoder = loaded.vocoder_state  # "type", "state_dict", "config", "training_metadata"')
    reference = shlex.quote(path if printable(path) == path else facts.metadata.model_id)
    shell = f"distillgan verify {reference}"
    return code_block("Python", "\n".join(lines)) + code_block("shell", shell)


def _analysis(analysis: dict[str, Any] | None) -> str:
    pictures = list(analysis_pictures(analysis or {}))
    if not pictures:
        return ""
    figures = "".join(
        f'<figure><figcaption>{title}</figcaption><div class="dg-scroll" tabindex="0">{svg}</div></figure>'
        for title, svg in pictures
    )
    return _section("Latent analysis", f'<div class="dg-figures">{figures}</div>')


def _config(title: str, config: dict[str, Any]) -> str:
    pairs = ((key, _value(value)) for key, value in config.items())
    return _section(title, _fields(pairs), is_open=False)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode().replace(",", ", ")


def _tensors(component: str, specs: Mapping[str, TensorSpec]) -> str:
    if not specs:
        return ""
    heads = "".join(
        f'<th scope="col"{" class=num" if kind else ""} aria-sort="none">'
        f'<button type="button" data-sort="{index}">{name}</button></th>'
        for index, (name, kind) in enumerate((("Tensor", 0), ("Dtype", 0), ("Shape", 0), ("Size", 1)))
    )
    rows = "".join(_tensor_row(name, spec) for name, spec in specs.items())
    table = f'<table class="dg-table"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    title = f"Tensors of the {'VAE' if component == 'vae' else component} ({len(specs)})"
    body = f'<div class="dg-scroll tall" tabindex="0" role="region" aria-label="{title}">{table}</div>'
    return _section(title, body, is_open=False)


def _tensor_row(name: str, spec: TensorSpec) -> str:
    shown = name if spec.name == name else f"{name} = {spec.name}"
    shape = "×".join(map(str, spec.shape)) or "scalar"
    return (
        f'<tr><th scope="row">{to_html(shown)}</th><td>{to_html(spec.dtype)}</td><td>{shape}</td>'
        f'<td class="num" data-value="{spec.nbytes}">{size_text(spec.nbytes)}</td></tr>'
    )

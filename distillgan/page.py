"""The model library in a browser: the whole page, and its pieces for another Gradio app.

Listens on 127.0.0.1 alone, asks nothing of another machine, and hands out no file but previews.
"""

from __future__ import annotations

import base64
import os
import socket
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import gradio as gr
import msgspec

from . import _page_html as html
from . import _page_model as opened
from ._page_facts import glance, is_signed, read_facts, read_sound
from ._page_guard import Guard
from ._page_html import TABLE_COLUMNS, entry_key, render_cards, table_rows
from ._page_shelf import SORTS, Question, Shelf
from ._text import printable
from .catalog import ModelEntry, ModelLibrary
from .edit import edit_metadata
from .errors import DistillganError
from .verify import Problem, verify

__all__ = ["TABLE_COLUMNS", "library_page", "library_tab", "render_cards", "serve", "table_rows"]

OnLoad = Callable[[ModelEntry], object]
Key = dict[str, str]
Updates = dict[Any, Any]

_TICK = 0.1  # seconds between two looks at how far verifying is
_HERE = Path(__file__).parent
_SCRIPT = (_HERE / "_page.js").read_text(encoding="utf-8")
_STYLE = (_HERE / "_page.css").read_text(encoding="utf-8")
_LOOK: dict[str, Any] = {"css_template": _STYLE, "apply_default_css": False, "js_on_load": _SCRIPT}
_SOUNDS = [".flac", ".wav", ".ogg", ".mp3", ".aiff"]
_PLAIN_FONTS: dict[str, Any] = {
    "font": ("system-ui", "sans-serif"),
    "font_mono": ("ui-monospace", "monospace"),
}
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def library_page(library: ModelLibrary) -> gr.Blocks:
    """The whole page over a library, to be served by `serve`."""
    day = 86_400  # seconds that an uploaded preview may lie in gradio's cache
    page = gr.Blocks(analytics_enabled=False, title="Model library", fill_width=True, delete_cache=(day, day))
    with page:
        gr.HTML("<h1>Model library</h1>", css_template=_STYLE, apply_default_css=False)
        library_tab(library)
    return page


def serve(
    library: ModelLibrary,
    *,
    port: int | None = None,
    open_browser: bool = True,
    tell: Callable[[str], object] = lambda address: None,
) -> None:
    """Serve the page on 127.0.0.1 until it is interrupted; `tell` is told its address."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # some of gradio asks this, not the Blocks
    page = library_page(library)
    _refuse_taken(port)
    _, address, _ = page.launch(
        server_name="127.0.0.1",
        server_port=port,
        share=False,
        inbrowser=open_browser,
        prevent_thread_lock=True,
        quiet=True,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        footer_links=[],
        theme=gr.themes.Default(primary_hue="green", **_PLAIN_FONTS),
        blocked_paths=[os.path.abspath(library.folder)],
        app_kwargs=Guard.app_options(),
    )
    tell(address)
    page.block_thread()


def _refuse_taken(port: int | None) -> None:
    """Say it plainly if the port that was asked for cannot be had; gradio speaks of its own settings."""
    with socket.socket() as probe:
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            probe.bind(("127.0.0.1", port or 0))
        except OSError as error:
            reason = f"Port {port} cannot be had: {error.strerror}"
            raise DistillganError(f"{reason}; give another one with --port.") from None


def library_tab(library: ModelLibrary, on_load: OnLoad | None = None) -> gr.State:
    """Put the library into the `gr.Blocks` that is being built.

    With `on_load` an opened model has a Load button, which calls it with the model's entry; a text
    that it returns is shown. The state returned holds the id of the model loaded last ("" before), so
    `.change` of it can update the app. Raises nothing for a library that is empty or not there yet.
    """
    loaded: gr.State = _Tab(Shelf(library), on_load).loaded
    return loaded


class _Tab:
    """The components of a tab and what happens between them."""

    def __init__(self, shelf: Shelf, on_load: OnLoad | None):
        self.shelf = shelf
        self.on_load = on_load
        self.key: Any = gr.State(None)
        self.loaded: Any = gr.State("")
        with gr.Column() as self.overview:
            self._build_overview()
        with gr.Column(visible=False) as self.opened:
            self._build_opened()
        self._connect_overview()
        self._connect_opened()

    def _build_overview(self) -> None:
        with gr.Row():
            self.query: Any = gr.Textbox(
                label="Search", placeholder="A part of a name or description", scale=4, min_width=220
            )
            self.tags: Any = gr.Dropdown(
                [], label="Any of these tags", multiselect=True, scale=3, min_width=200
            )
            self.sort: Any = gr.Dropdown(list(SORTS), value="Newest", label="Sort", scale=2, min_width=120)
            self.view: Any = gr.Radio(
                ["Cards", "Table"], value="Cards", label="Show as", scale=2, min_width=225
            )
        summary, listing = self._show("", [], "Newest", "Cards")
        # In the page at once; inert until its first event, as by then another card may be in its place.
        at_first = listing.replace("<div", "<div inert", 1)
        self.summary = gr.HTML(summary, **_LOOK)
        self.listing = gr.HTML(at_first, **_LOOK, server_functions=self._served())

    def _build_opened(self) -> None:
        small: dict[str, Any] = {"scale": 0, "min_width": 100}
        with gr.Row():
            self.back = gr.Button("← All models", scale=0, min_width=150)
            self.load = gr.Button("Load", variant="primary", visible=self.on_load is not None, **small)
            self.check = gr.Button("Verify", **small)
            self.edit = gr.Button("Edit", **small)
            self.renew = gr.Button("Give it its own ID", visible=False, scale=0, min_width=190)
            self.forget = gr.Button("Forget it", visible=False, **small)
            self.delete = gr.Button("Delete…", variant="stop", **small)
        self.verdict = gr.HTML(**_LOOK)
        with gr.Column(visible=False) as self.question:
            self.asked = gr.HTML(**_LOOK)
            with gr.Row():
                self.yes = gr.Button("Delete it", variant="stop", scale=0, min_width=120)
                self.no = gr.Button("Keep it", scale=0, min_width=100)
        with gr.Column(visible=False) as self.form:
            self.name = gr.Textbox(label="Name", max_length=1000)
            self.description = gr.Textbox(label="Description", lines=3)
            self.own_tags = gr.Dropdown([], label="Tags", multiselect=True, allow_custom_value=True)
            self.sound = gr.File(label="New preview: a short sound", file_types=_SOUNDS, height=120)
            with gr.Row():
                self.save = gr.Button("Save", variant="primary", scale=0, min_width=120)
                self.cancel = gr.Button("Cancel", scale=0, min_width=120)
        self.model = gr.HTML(**_LOOK, server_functions=self._served())

    def _served(self) -> list[Callable[[Any], Any]]:
        """What the script in the page may call; closures, because gradio marks them as its own."""

        def listen(key: Any) -> dict[str, str]:
            return self._listen(key)

        def more(ask: Any) -> str:
            return self.shelf.more(msgspec.convert(ask, Question))

        return [listen, more]

    def _connect_overview(self) -> None:
        asked = [self.query, self.tags, self.sort, self.view]
        shown = [self.summary, self.listing]
        # One at a time, so that an answer never overtakes the answer to a later question.
        show: dict[str, Any] = {
            "fn": self._show, "inputs": asked, "outputs": shown, "concurrency_id": "library list", **_QUIET
        }  # fmt: skip
        gr.on([part.change for part in asked], trigger_mode="always_last", **show)
        context = gr.context.Context.root_block
        assert context is not None
        for trigger in (context.load, self.summary.refresh):
            trigger(self._refresh, None, self.tags, **_QUIET).then(**show)
        self.listing.open(self._open, None, self._model_parts(), **_QUIET)

    def _connect_opened(self) -> None:
        asked = [self.query, self.tags, self.sort, self.view]
        overview = [self.overview, self.opened, self.summary, self.listing, self.tags, self.model]
        parts, key = self._model_parts(), [self.key]
        fields = [self.key, self.name, self.description, self.own_tags, self.sound]
        form = [self.form, self.question, self.verdict, *fields[1:]]
        self.back.click(self._leave, asked, overview, **_QUIET)
        self.load.click(self._load, key, [self.loaded, self.verdict], api_visibility="private")
        self.check.click(self._verify, key, self.verdict, **_QUIET)
        self.edit.click(self._show_form, key, form, **_QUIET)
        self.cancel.click(lambda: gr.Column(visible=False), None, self.form, **_QUIET)
        self.save.click(self._save, fields, parts, api_visibility="private")
        self.renew.click(self._renew, key, parts, api_visibility="private")
        self.delete.click(self._ask, key, [self.form, self.question, self.asked], **_QUIET)
        self.no.click(lambda: gr.Column(visible=False), None, self.question, **_QUIET)
        gone = [*overview, self.verdict]
        self.yes.click(self._delete, [self.key, *asked], gone, api_visibility="private")
        self.forget.click(self._forget, [self.key, *asked], gone, api_visibility="private")

    def _model_parts(self) -> list[Any]:
        switched = [self.renew, self.forget, self.check, self.edit, self.delete, self.load]
        return [
            self.key, self.overview, self.opened, self.verdict, self.question, self.form, self.model,
            *switched,
        ]  # fmt: skip

    def _show(self, query: str, tags: list[str], sort: str, view: str) -> tuple[str, str]:
        question = Question(query.strip(), tags or [], sort, view)
        return self.shelf.summary(question), self.shelf.listing(question)

    def _refresh(self) -> Any:
        self.shelf.refresh()
        return gr.Dropdown(choices=self._tag_choices())

    def _tag_choices(self) -> list[tuple[str, str]]:
        return [(printable(tag), tag) for tag in self.shelf.tags()]

    def _open(self, event: gr.EventData) -> Updates:
        return self._opened({"id": str(event.id), "file": str(event.file)})

    def _opened(self, key: Key, verdict: str = "") -> Updates:
        """Everything that changes when a model is opened, or read again after a change."""
        entry = self._entry(key)
        there = entry.state != "missing"
        return {
            self.key: entry_key(entry),
            self.overview: gr.Column(visible="hidden"),  # not False: what was scrolled to stays in place
            self.opened: gr.Column(visible=True),
            self.verdict: verdict,
            self.question: gr.Column(visible=False),
            self.form: gr.Column(visible=False),
            self.model: self._render(entry),
            self.renew: gr.Button(visible=entry.state == "duplicate"),
            self.forget: gr.Button(visible=not there),
            self.load: gr.Button(visible=there and self.on_load is not None),
            self.check: gr.Button(visible=there),
            self.edit: gr.Button(visible=there),
            self.delete: gr.Button(visible=entry.state == "ok"),
        }

    def _entry(self, key: Key) -> ModelEntry:
        """The model of a key, or a notice in a corner of the page."""
        try:
            return self.shelf.entry(key)
        except DistillganError as error:
            raise gr.Error(html.to_html(str(error)), print_exception=False) from None

    def _render(self, entry: ModelEntry) -> str:
        path = self.shelf.path(entry)
        if entry.state == "missing":
            return opened.render_unread(entry, path, "")
        try:
            return opened.render_model(entry, read_facts(path), path)
        except (DistillganError, OSError) as error:
            return opened.render_unread(entry, path, str(error))

    def _leave(self, *asked: Any) -> Updates:
        summary, listing = self._show(*asked)
        return {
            self.overview: gr.Column(visible=True),
            self.opened: gr.Column(visible=False),
            self.summary: summary,
            self.listing: listing,
            self.tags: gr.Dropdown(choices=self._tag_choices()),
            self.model: "",
        }

    def _listen(self, key: Any) -> dict[str, str]:
        try:
            sound = read_sound(self.shelf.path(self.shelf.entry(key)))
        except (DistillganError, OSError) as error:
            return {"error": printable(str(error))}
        if sound is None:
            return {"error": "This model has no preview any more."}
        return {"sound": "data:audio/flac;base64," + base64.b64encode(sound).decode()}

    def _load(self, key: Key) -> Updates:
        try:
            entry = self.shelf.entry(key)
            told = self.on_load(entry) if self.on_load is not None else None
        except (DistillganError, OSError) as error:
            return {self.verdict: html.render_text(str(error))}
        text = told if isinstance(told, str) else f"{entry.name} is loaded."
        return {self.loaded: entry.model_id, self.verdict: html.render_text(text, "good")}

    def _verify(self, key: Key) -> Iterator[str]:
        try:
            path = self.shelf.path(self.shelf.entry(key))
            problems = yield from _find_problems(path)
            yield opened.render_verdict(problems, () if problems else glance(path, True).mismatches)
        except (DistillganError, OSError) as error:
            yield html.render_text(str(error))

    def _show_form(self, key: Key) -> Updates:
        entry = self._entry(key)
        signed = is_signed(self.shelf.path(entry))
        return {
            self.verdict: html.render_text("Saving removes the signature.", "warn") if signed else "",
            self.form: gr.Column(visible=True),
            self.question: gr.Column(visible=False),
            self.name: entry.name,
            self.description: entry.description,
            self.own_tags: gr.Dropdown(choices=self._tag_choices(), value=entry.tags),
            self.sound: None,
        }

    def _save(self, key: Key, name: str, description: str, tags: list[str], sound: str | None) -> Updates:
        wanted = {"name": name.strip(), "description": description, "tags": tags or []}

        def change(entry: ModelEntry) -> None:
            changes: dict[str, Any] = {
                field: value for field, value in wanted.items() if value != getattr(entry, field)
            }
            edit_metadata(self.shelf.path(entry), preview=sound, **changes)

        return self._changed(key, change, "Saved.")

    def _renew(self, key: Key) -> Updates:
        def change(entry: ModelEntry) -> None:
            edit_metadata(self.shelf.path(entry), new_id=True)

        return self._changed(key, change, "This file is a model of its own now.")

    def _changed(self, key: Key, change: Callable[[ModelEntry], None], done: str) -> Updates:
        """Make a change and show the model again, or why it could not be made."""
        try:
            with self.shelf.changing(key) as entry:
                change(entry)
            now = next(
                e for e in self.shelf.library.list_all() if entry_key(e)["file"] == entry_key(entry)["file"]
            )
            return self._opened(entry_key(now), html.render_text(done, "good"))
        except (DistillganError, OSError) as error:
            return {self.verdict: html.render_text(str(error))}

    def _ask(self, key: Key) -> Updates:
        entry = self._entry(key)
        return {
            self.form: gr.Column(visible=False),
            self.question: gr.Column(visible=True),
            self.asked: opened.render_question(entry, self.shelf.path(entry)),
        }

    def _delete(self, key: Key, *asked: Any) -> Updates:
        return self._take_out(key, self.shelf.library.delete, asked)

    def _forget(self, key: Key, *asked: Any) -> Updates:
        return self._take_out(key, self.shelf.library.remove, asked)

    def _take_out(self, key: Key, take: Callable[[str], bool], asked: tuple[Any, ...]) -> Updates:
        try:
            with self.shelf.changing(key) as entry:
                take(entry.model_id)
        except (DistillganError, OSError) as error:
            return {self.verdict: html.render_text(str(error))}
        return self._leave(*asked) | {self.verdict: ""}


def _find_problems(path: str) -> Generator[str, None, list[Problem]]:
    """Verify a file in a thread; give a progress bar as HTML again and again, at last the problems."""
    size, done = os.path.getsize(path), 0

    def tell(count: int) -> None:
        nonlocal done
        done += count

    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(verify, path, progress=tell)
        while wait([work], timeout=_TICK).not_done:
            yield opened.render_progress(done, size)
        return work.result()

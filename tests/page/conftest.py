"""A browser, and pages served by processes of their own. Needs Debian's chromium and playwright."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from _models import write_library, write_many, write_rich  # noqa: E402
from _serving import FLAGS, Served, await_page, start_server  # noqa: E402


def _need(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        return _do_without(f"the browser tests need {module}")


def _do_without(reason: str) -> Any:
    """Where everything is installed, as in CI, what is missing is a failure and no skip."""
    return pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    sync_api = _need("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        _do_without("the browser tests need Debian's chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Served]]:
    """Four pages: a gallery to change, 500 models, 5,000 models, and another app with a tab."""
    _need("gradio")
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in ("gallery", "500", "5000", "app")}
    write_library(folders["gallery"])
    for count in (500, 5000):
        write_many(folders[str(count)], count)
    write_rich(folders["app"] / "rain.distillgan", "app-1", "Rain on tin")
    process, pages = start_server(tmp_path_factory.mktemp("notes") / "asked.txt", folders)
    try:
        for page in pages:
            await_page(process, page.url)
        yield dict(zip(folders, pages, strict=True))
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def gallery(served: dict[str, Served]) -> Served:
    return served["gallery"]


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open an address; at the end nothing may have left this machine and no script may have failed."""
    pages = []
    requests: list[str] = []
    errors: list[str] = []

    def open_page(url: str, *, width: int = 1280, scheme: str = "light", ready: bool = True) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.goto(url)
        if ready:
            page.wait_for_selector("main:has(.dg-count):not(:has([inert]))")
        pages.append(page)
        return page

    yield open_page
    hacked = [page.evaluate("window.hacked") for page in pages]
    for page in pages:
        page.context.close()
    assert hacked == [None] * len(pages)
    assert [url for url in requests if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))] == []
    assert errors == []

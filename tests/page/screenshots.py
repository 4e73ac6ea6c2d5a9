"""Takes the two screenshots of the README: `python tests/page/screenshots.py`.

Needs what the browser tests need, and Pillow to make the pictures small.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(ROOT), str(ROOT / "cli")]

from _models import write_gallery  # noqa: E402
from _serving import FLAGS, await_page, start_server  # noqa: E402
from PIL import Image  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402

TARGET = ROOT / "docs" / "screenshots"
RENAME = """([from, to]) => {
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) texts.currentNode.data = texts.currentNode.data.replaceAll(from, to);
}"""


def take(browser: Any, url: str, folder: Path) -> None:
    """The cards, and one model opened."""
    page = browser.new_page(viewport={"width": 1180, "height": 720})
    page.goto(url)
    page.locator("div:not([inert]) > .dg-card").first.wait_for()
    shoot(page, folder, "cards.png")
    page.get_by_role("button", name="Rain on tin", exact=True).click()
    page.locator(".dg-wave polygon").wait_for()
    page.get_by_role("button", name="Verify").click()
    page.get_by_text("Every byte is what was saved.").wait_for()
    page.mouse.move(0, 0)
    page.set_viewport_size({"width": 1180, "height": 1240})
    shoot(page, folder, "model.png")


def shoot(page: Any, folder: Path, name: str) -> None:
    """Save a picture of a page in few colours, with a person's folder instead of a temporary one."""
    page.evaluate(RENAME, [str(folder), "/home/ada/models"])
    png = page.screenshot()
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(200, dither=Image.Dither.NONE)
    image.save(TARGET / name, optimize=True)
    print(f"{name}: {(TARGET / name).stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Serve a gallery, take the pictures, stop."""
    TARGET.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder, "models")
        write_gallery(models)
        process, (served,) = start_server(Path(folder, "asked.txt"), {"page": models})
        try:
            await_page(process, served.url)
            with sync_playwright() as playwright:
                take(
                    playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS),
                    served.url,
                    models,
                )
        finally:
            process.terminate()
            process.wait(30)


if __name__ == "__main__":
    main()

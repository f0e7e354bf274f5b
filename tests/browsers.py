"""What tests of pages in a browser share: headless Chromium through Playwright, wherever both are found."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from dexar_fast.render.html import to_html
from dexar_fast.render.languages import Language
from dexar_fast.result.explanation import Explanation

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

playwright = pytest.importorskip("playwright.sync_api", reason="browser tests need Playwright (pip install playwright)")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# No sandbox, because tests often run as root in a container; no background traffic.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of a module."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"browser tests need a Chromium on the PATH ({', '.join(NAMES)}); none was found")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield started
        started.close()


class Report:
    """An open report, and everything that it did besides showing itself."""

    def __init__(self, page: Page, path: Path, link: str = "") -> None:
        self.page = page
        self.noise: list[str] = []
        page.on("console", lambda message: self.noise.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.noise.append(f"error: {error}"))
        page.on("dialog", self._dialog)
        page.on("request", self._request)
        self._address = path.as_uri()
        page.goto(self._address + link)
        self.settle()

    def _request(self, request: Any) -> None:
        if request.url.partition("#")[0] != self._address and not request.url.startswith("data:"):
            self.noise.append(f"request: {request.url}")

    def _dialog(self, dialog: Any) -> None:
        self.noise.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def settle(self) -> None:
        """Wait until what was asked for has been drawn."""
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def step_through(self, units: str) -> None:
        """Choose words or tokens without giving anything the focus; as they are where there is no choice."""
        self.page.locator(f"[name=units][value={units}]").evaluate("one => one.checked || one.click()")
        self.settle()

    def overlay(self) -> str:
        """The pixels of the overlay."""
        self.settle()
        return self.page.evaluate("document.getElementById('overlay').toDataURL()")

    def text(self, name: str) -> str:
        return (self.page.locator(f"#{name}").text_content() or "").strip()

    def whole(self, name: str) -> bool:
        """Whether nothing of an element's text is cut off."""
        return bool(
            self.page.locator(f"#{name}").evaluate(
                "e => e.scrollWidth <= e.clientWidth && e.scrollHeight <= e.clientHeight"
            )
        )

    def unit(self, index: int) -> Any:
        return self.page.locator(f"#unit-{index}")

    def away(self) -> None:
        """Take the pointer off the answer."""
        self.page.mouse.move(2, 2)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def focused(self) -> str:
        return self.page.evaluate("document.activeElement.id || document.activeElement.value")

    def pinned(self) -> list[str]:
        return self.page.locator("[aria-selected=true]").all_text_contents()

    def toggle_heads(self, gesture: str = "click") -> None:
        """Open or close the panel of heads, which hears of it in a later task than the gesture's."""
        panel = self.page.locator("#heads")
        panel.evaluate(
            "p => { window.toggled = new Promise(done => p.addEventListener('toggle', () => done(), { once: true })); }"
        )
        getattr(panel.locator("summary"), gesture)()
        self.page.evaluate("window.toggled")
        self.settle()

    def picture(self) -> np.ndarray:
        """``(height, width, 3)`` uint8: what the frame shows."""
        self.settle()
        shot = Image.open(BytesIO(self.page.locator("#frame").screenshot()))
        return np.asarray(shot.convert("RGB"))


Open = Callable[..., Report]


@pytest.fixture
def open_report(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Open explanations as reports; in the end, none may have made a noise."""
    reports: list[Report] = []

    def opened(
        explanation: Explanation, *, lang: Language = "en", units: str = "tokens", link: str = "", **options: Any
    ) -> Report:
        path = to_html(explanation, tmp_path / f"report-{len(reports)}.html", lang=lang)
        options.setdefault("viewport", {"width": 1280, "height": 900})
        reports.append(Report(browser.new_context(**options).new_page(), path, link))
        reports[-1].step_through(units)
        return reports[-1]

    yield opened
    for report in reports:
        report.page.context.close()
        assert report.noise == []


def noise(page: Any, address: str) -> list[str]:
    """What a page does besides showing itself: messages, errors, dialogs, requests to others; grows meanwhile."""
    heard: list[str] = []

    def on_dialog(dialog: Any) -> None:
        heard.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    page.on("console", lambda message: heard.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: heard.append(f"error: {error}"))
    page.on("dialog", on_dialog)
    own = address, "data:", "blob:"
    page.on("request", lambda request: None if request.url.startswith(own) else heard.append(f"request: {request.url}"))
    return heard

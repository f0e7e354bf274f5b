"""What tests of pages in a browser share."""

from __future__ import annotations

from typing import Any


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

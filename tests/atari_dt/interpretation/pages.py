"""Open a page in a browser, and read and set what it shows."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Page


def open_page(browser: Any, path: Path, messages: list[str], width: int = 1280, height: int = 800) -> Page:
    page: Page = browser.new_page(viewport={"width": width, "height": height})
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: messages.append(request.url) if request.url != path.as_uri() else None)
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-ready=yes]")
    return page


def canvas(page: Page, selector: str) -> Any:
    """Return the RGBA pixels of a canvas, ``[height, width, 4]``."""
    data_url = page.eval_on_selector(selector, "canvas => canvas.toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data_url.split(",")[1]))).convert("RGBA"))


def pixels(page: Page, selector: str) -> Any:
    """Return the RGB pixels of a canvas, ``[height, width, 3]``."""
    return canvas(page, selector)[..., :3]


def wait_until(page: Page, condition: str) -> None:
    """Wait at most 5 seconds. Playwright's own function needs eval, which the page's security policy forbids."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"still false after 5 seconds: {condition}")


def slide(page: Page, selector: str, value: int) -> None:
    page.locator(selector).fill(str(value))

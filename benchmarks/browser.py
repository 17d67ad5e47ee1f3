"""Chromium, without a window, for tests and benchmarks that look at pages as people do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE_MS = 180_000


@contextmanager
def chromium(*, offline: bool = False, width: int = 1_400, height: int = 1_000) -> Iterator[Any]:
    """A fresh browser context of Playwright's on the system's Chromium, without a window.

    Args:
        offline: no network at all.
        width: of the pages, in pixels.
        height: of the pages, in pixels.

    Raises:
        FileNotFoundError: there is no Chromium.
    """
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        raise FileNotFoundError("no Chromium on the PATH (on Debian and Ubuntu: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            context = browser.new_context(offline=offline, viewport={"width": width, "height": height})
            context.set_default_timeout(PATIENCE_MS)
            yield context
        finally:
            browser.close()

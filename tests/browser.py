"""Chromium, without a window, for tests that look at pages as people do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def chromium(*, offline: bool = False, width: int = 1400, height: int = 1000) -> Iterator[Any]:
    """A fresh browser context of Playwright's on the system's Chromium; a test that cannot find it fails.

    Args:
        offline: no network at all.
        width: of the window, in pixels.
        height: of the window, in pixels.
    """
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert path, "this test needs Chromium on the PATH (on Debian: apt-get install chromium)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            context = browser.new_context(offline=offline, viewport={"width": width, "height": height})
            context.set_default_timeout(180_000)
            yield context
        finally:
            browser.close()

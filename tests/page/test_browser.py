"""The page in a real browser; skipped where Chromium or Playwright is not installed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.api.conftest import Running

if TYPE_CHECKING:
    from playwright.sync_api import Page

playwright = pytest.importorskip("playwright.sync_api")


@pytest.fixture
def page(running: Running, chromium: str) -> Iterator[Page]:
    """Opened and showing the system's state; fails on any error that the page's script makes."""
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(running.url)
        playwright.expect(page.locator("#about")).to_contain_text("2 of 2 emulated ranks")
        yield page
        browser.close()
        assert problems == []


def test_a_picture_is_asked_for_and_comes_with_how_it_went(page: Page) -> None:
    page.fill("#prompt", "a red circle on a blue background")
    page.fill("#size", "512x512")
    page.fill("#steps", "6")
    page.click("#form button")
    done = page.locator("figure.done")
    playwright.expect(done).to_contain_text("emulated ranks make no pictures")
    playwright.expect(done.locator("figcaption")).to_contain_text("a red circle on a blue background")
    playwright.expect(done.locator("figcaption")).to_contain_text("from step 0")
    playwright.expect(page.locator("#requests-about")).to_contain_text("1 completed")


def test_a_bad_size_says_which(page: Page) -> None:
    page.fill("#prompt", "a red circle")
    page.fill("#size", "500x500")
    page.click("#form button")
    playwright.expect(page.locator("#form-problem")).to_contain_text("not a multiple of 16")


def test_the_strip_has_what_ran(page: Page, running: Running) -> None:
    page.fill("#prompt", "a wide one")
    page.fill("#size", "1024x1024")
    page.click("#form button")
    playwright.expect(page.locator("figure.done")).to_be_visible()
    painted = """() => {
        const canvas = document.querySelector("#strip");
        const { data } = canvas.getContext("2d").getImageData(40, 0, canvas.width - 40, 40);
        return data.filter((value, at) => at % 4 === 3 && value === 255).length;
    }"""
    while page.evaluate(painted) <= 100:  # the test's own timeout ends it
        page.wait_for_timeout(50)


def test_the_policy_is_checked_while_it_is_typed_and_simulated_on_request(page: Page) -> None:
    editor = page.locator("#policy")
    playwright.expect(editor).to_have_value(re.compile("^policy slo version"))
    editor.fill(editor.input_value().replace("order by deadline", "order by dedline", 1))
    playwright.expect(page.locator("#diagnostics")).to_contain_text("did you mean `deadline`?")
    playwright.expect(page.locator("#marks mark.error")).to_have_text("dedline")
    playwright.expect(page.locator("#simulate")).to_be_disabled()
    page.click("#reset")
    playwright.expect(page.locator("#diagnostics .error")).to_have_count(0)
    page.click("#simulate")
    playwright.expect(page.locator("#what-if")).to_contain_text("slo (in charge)", timeout=60_000)

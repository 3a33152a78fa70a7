"""A run's page in a real browser, opened from the file system as its reader does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from acestep.evaluation.run_report import run_figures, write_run_page
from acestep.training.history import read_history
from evaluation.run_report.runs import write_run
from evaluation.test_page_in_browser import ARGUMENTS, CHROMIUM

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed; `make test` installs it where it can"
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    history = read_history(write_run(tmp_path_factory.mktemp("runs") / "my run").path)
    return write_run_page(history, run_figures(history))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, report: Path) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 390, "height": 800})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on(
        "request", lambda request: None if request.url.startswith(("file:", "data:")) else problems.append(request.url)
    )
    page.goto(report.as_uri())
    yield page
    page.close()
    assert not problems


def test_epochs_switch_in_place_while_they_play(page: Page) -> None:
    player = page.locator(".player").first
    assert player.locator(".take").count() == 5
    player.locator(".play").click()
    heard = "player => Math.max(...[...player.querySelectorAll('audio')].map(a => a.paused ? 0 : a.currentTime))"
    page.wait_for_function(f"player => ({heard})(player) > 0.3", arg=player.element_handle())
    before = player.evaluate(heard)
    player.locator("input[type=radio]").nth(1).check()
    page.wait_for_function(f"player => ({heard})(player) > 0", arg=player.element_handle())
    assert player.evaluate(heard) >= before - 0.05
    assert player.locator(".is-chosen").inner_text().strip().startswith("Epoch 1")


def test_a_pointer_and_the_keys_read_the_same_values(page: Page) -> None:
    plot = page.locator(".plot").nth(1)
    plot.focus()
    plot.press("End")
    said = plot.locator(".values").inner_text()
    assert said.splitlines()[0] == "step 40 (epoch 4)"
    assert "held-out loss ± standard error: 1.2299" in said
    assert "step 40: Finished" in said
    plot.press("Escape")
    assert plot.locator(".values").is_hidden()
    box = plot.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * (640 - 12) / 640, box["y"] + box["height"] / 2)
    assert plot.locator(".values").inner_text() == said
    plot.press("ArrowLeft")
    assert plot.locator(".values").inner_text().startswith("step 30 (epoch 3)")


def test_a_phone_scrolls_down_only(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_paper_shows_what_the_screen_folds(page: Page) -> None:
    assert page.locator("details:not([open])").count() > 0
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0


def test_a_watched_page_reloads_but_not_under_a_song(browser: Browser, tmp_path: Path) -> None:
    history = read_history(write_run(tmp_path / "run", ended=False).path)
    path = write_run_page(history, run_figures(history), refresh_s=2.0)
    page = browser.new_page()
    page.goto(path.as_uri())
    page.evaluate("const a = document.querySelector('audio'); a.loop = true; a.play(); window.marked = true")
    page.wait_for_timeout(2500)
    assert page.evaluate("window.marked") is True
    with page.expect_navigation(timeout=20_000):
        page.evaluate("document.querySelector('audio').pause()")
    assert page.evaluate("window.marked") is None
    page.close()


def test_without_its_script_curves_and_players_remain(browser: Browser, report: Path) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(report.as_uri())
    assert page.locator("audio[controls]").first.is_visible()
    assert page.locator(".plot polyline").first.is_visible()
    assert not page.locator(".hint").is_visible()

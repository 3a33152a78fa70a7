"""The report in a real browser, opened from the file system as its reader does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from acestep.evaluation.advice import Advice
from acestep.evaluation.evaluation import evaluate_lora
from acestep.evaluation.page import write_page
from acestep.evaluation.prompts import Prompt
from evaluation.fake_pipeline import BrightnessPipeline

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# As root, as in a container, Chromium has no sandbox; the others keep it from looking for its maker's servers.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--autoplay-policy=no-user-gesture-required",
]

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed; `make test` installs it where it can"
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    prompts = [Prompt(prompt="lofi, 82 bpm"), Prompt(prompt="<b>soul</b>")]
    evaluation = evaluate_lora(BrightnessPipeline(4.0), "lora", prompts, folder=folder, seeds=(1,), duration_s=6.0)
    return write_page(folder, evaluation, title="A LoRA", advice=[Advice("Listen", "then decide")])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Page:
    return browser.new_page(viewport={"width": 390, "height": 800})


def test_versions_switch_in_place_while_they_play(page: Page, report: Path) -> None:
    problems: list[str] = []
    addresses: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: addresses.append(request.url))
    page.goto(report.as_uri())

    player = page.locator(".player").first
    takes = player.locator(".take")
    assert takes.count() == 2
    player.locator(".play").click()
    playing = "player => [...player.querySelectorAll('audio')].map(audio => [!audio.paused, audio.currentTime])"
    heard_a_bit = "player => [...player.querySelectorAll('audio')].some(audio => audio.currentTime > 0.3)"
    page.wait_for_function(heard_a_bit, arg=player.element_handle())
    before = player.evaluate(playing)
    player.press("x")
    page.wait_for_timeout(300)
    after = player.evaluate(playing)
    assert [is_playing for is_playing, _ in before] != [is_playing for is_playing, _ in after]
    assert sum(is_playing for is_playing, _ in after) == 1
    heard, continued = max(position for _, position in before), next(p for is_playing, p in after if is_playing)
    assert continued >= heard - 0.05

    page.locator(".player").nth(1).locator(".play").click()
    page.wait_for_timeout(200)
    assert not any(is_playing for is_playing, _ in player.evaluate(playing)), "two songs play at once"
    assert not problems
    assert all(address.startswith("file://") for address in addresses)


def test_a_phone_scrolls_down_only(page: Page, report: Path) -> None:
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_without_its_script_the_browsers_own_players_remain(browser: Browser, report: Path) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(report.as_uri())
    assert page.locator("audio[controls]").count() == 4
    assert page.locator("audio[controls]").first.is_visible()

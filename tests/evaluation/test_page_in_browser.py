"""The report in a real browser, opened from the file system as its reader does."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from acestep.evaluation.advice import Advice
from acestep.evaluation.damage import binomial_interval
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
    evaluation = evaluate_lora(
        BrightnessPipeline(4.0), "lora", prompts, folder=folder, strengths=(0.5, 1.0), seeds=(1,), duration_s=6.0
    )
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
    assert takes.count() == 3
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
    assert page.locator("audio[controls]").count() == 6
    assert not page.locator("#blind-test").is_visible()
    assert page.locator("audio[controls]").first.is_visible()


def test_a_number_chooses_a_strength_and_keeps_the_position(page: Page, report: Path) -> None:
    page.goto(report.as_uri())
    player = page.locator(".player").first
    seek = player.locator(".seek")
    seek.evaluate("seek => { seek.value = 2.5; seek.dispatchEvent(new Event('input')); }")
    seek.press("3")
    assert player.locator(".take.is-chosen").get_attribute("data-strength") == "1"
    assert float(seek.input_value()) == pytest.approx(2.5)


def test_a_hundred_players_open_without_loading_any_audio(page: Page, report: Path, tmp_path: Path) -> None:
    shutil.copytree(report.parent, tmp_path / "many")
    text = report.read_text(encoding="utf-8")
    start, end = text.index('<article class="comparison"'), text.rindex("</article>") + len("</article>")
    one = text[start : text.index("</article>") + len("</article>")]
    many = tmp_path / "many" / "report.html"
    many.write_text(text[:start] + one * 100 + text[end:], encoding="utf-8")
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    page.goto(many.as_uri())
    assert page.locator(".transport:visible .seek").count() >= 100
    assert not [address for address in addresses if ".flac" in address]


def begin_blind(page: Page, report: Path, mode: str, votes: str = "10") -> None:
    page.goto(report.as_uri())
    page.evaluate("localStorage.clear()")
    page.reload()
    page.check(f"#blind-test input[value={mode}]")
    page.select_option("#blind-test select[name=votes]", votes)
    page.click("#blind-test .blind-setup button")


def test_blind_votes_are_hidden_kept_taken_back_and_judged(page: Page, report: Path) -> None:
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    begin_blind(page, report, "ab")
    trial = page.locator(".blind-trial")
    assert "Base" not in trial.inner_text()
    assert "LoRA" not in trial.inner_text()
    assert "data-strength" not in trial.inner_html()
    for _ in range(4):
        page.keyboard.press("1")
    page.keyboard.press("u")
    assert page.locator(".blind-count").inner_text() == "Vote 4 of 10"
    # The browser hands what a page stores to another of its processes, which on a busy machine a reload can overtake.
    page.wait_for_timeout(1500)
    page.reload()
    page.click("#blind-test .blind-setup button")
    assert page.locator(".blind-count").inner_text() == "Vote 4 of 16"
    page.click(".blind-result-now")
    said = page.locator(".blind-says").inner_text()
    assert "of 3 times" in said
    assert "does not prove a preference" in said
    rows = page.locator(".blind-result tbody tr")
    assert rows.count() == 3
    with page.expect_download() as download:
        page.click(".blind-export")
    votes = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))["votes"]
    assert [vote["vote"] for vote in votes] == ["A"] * 3
    assert all({vote["a"], vote["b"]} == {0, 1} for vote in votes)
    assert not problems


def test_an_abx_listener_who_is_always_right_is_believed_and_one_who_guesses_is_not(page: Page, report: Path) -> None:
    begin_blind(page, report, "abx")
    # The only way to know which one X is: its address, which no listener sees.
    page.evaluate("""() => {
        window.made = [];
        const Own = window.Audio;
        window.Audio = function (src) { window.made.push(src); return new Own(src); };
    }""")
    page.keyboard.press("1")
    for _ in range(9):
        a, _b, x = page.evaluate("window.made.slice(-3)")
        page.keyboard.press("1" if a == x else "2")
    said = page.locator(".blind-says").inner_text()
    assert said.startswith(("9 of 10 right", "10 of 10 right"))
    assert "The difference is heard." in said
    assert page.locator(".blind-x").is_visible()


def test_intervals_and_chances_are_the_exact_binomial_ones(page: Page, report: Path) -> None:
    page.goto(report.as_uri())
    cases = [[k, n] for n in (1, 7, 16, 32) for k in range(0, n + 1, max(1, n // 5))]
    found = page.evaluate(
        """cases => cases.map(([k, n]) => [
            acestepStatistics.interval(k, n), acestepStatistics.oneSided(k, n), acestepStatistics.twoSided(k, n)])""",
        cases,
    )
    for (k, n), (interval, one_sided, two_sided) in zip(cases, found, strict=True):
        ends = binomial_interval(k, n)
        assert interval == pytest.approx([ends.low, ends.high], abs=1e-9)
        ways = [math.comb(n, i) / 2**n for i in range(n + 1)]
        assert one_sided == pytest.approx(sum(ways[k:]))
        assert two_sided == pytest.approx(sum(way for way in ways if way <= ways[k] * (1 + 1e-9)))

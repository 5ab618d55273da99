"""The swarm view in a real browser, over a swarm of real processes: a peer is killed while the page is open. Run with `make test-browser`."""

from __future__ import annotations

import json
import os
import re
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import swarm
from tests.gateway.test_openai import GatewayProcess

playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need the package playwright")

expect = playwright.expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SPITE = "<img src=x onerror=document.title='bad'>"
SLOW = 60_000
"""Milliseconds for what takes a moment on a machine that has nothing else to do."""

SHOTS = os.environ.get("SCREENSHOTS")
"""A folder to put pictures into, for people to look at."""


@pytest.fixture(scope="module")
def local() -> Iterator[swarm.LocalSwarm]:
    with swarm.LocalSwarm(swarm.demo_model(), layers=["0:4", "4:8"], dtype="float32") as local:
        local.add("8:12", arguments=["--public-name", SPITE])
        yield local


@pytest.fixture(scope="module")
def gateway(local: swarm.LocalSwarm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    gateway = GatewayProcess(local, tmp_path_factory.mktemp("gateway") / "log", "--patience", "100")
    yield gateway
    gateway.process.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as play:
        path = next(filter(None, map(shutil.which, NAMES)), play.chromium.executable_path)
        if not Path(path).exists():
            pytest.skip("no Chromium on this machine; install one (apt-get install chromium, or playwright install chromium)")
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, gateway: GatewayProcess) -> Iterator[Any]:
    """The page, open, with whatever it asked for and whatever went wrong in it."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.asked, page.wrong = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("console", lambda message: page.wrong.append(message.text) if message.type == "error" else None)
    page.goto(f"{gateway.url}/")
    page.wait_for_selector(".row.peer", timeout=SLOW)
    yield page
    assert not page.wrong, "nothing went wrong in the page"
    assert all(url.startswith(gateway.url) or url.startswith("data:") for url in page.asked), "it works without the rest of the world"
    page.close()


def shot(page: Any, name: str) -> None:
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)


def completed(gateway: GatewayProcess, prompt: str) -> str:
    body = json.dumps({"model": "demo", "temperature": 0, "messages": [{"role": "user", "content": prompt}]}).encode()
    request = urllib.request.Request(f"{gateway.url}/v1/chat/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)["choices"][0]["message"]["content"].strip()


def test_strangers_names_are_text(page):
    assert page.locator(".row.peer .who", has_text="<img").count() == 1 and page.locator("img").count() == 0 and page.title() == "swarm"


def test_it_can_be_read_on_a_phone_in_light_and_in_dark(page):
    for width, scheme in ((360, "light"), (390, "dark"), (1280, "dark")):
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
        shot(page, f"{width}-{scheme}")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")  # from auto to light
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark


def test_everything_can_be_done_from_the_keyboard(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the chat box"
    page.keyboard.press("Enter")
    page.keyboard.type("sort 7 3 9 1")
    page.keyboard.press("Enter")
    expect(page.locator("#talk .its .said")).to_have_text("1 3 7 9", timeout=SLOW)
    page.wait_for_selector("#talk .its .route li:nth-child(3)", timeout=SLOW)
    assert page.locator(".bar.taken").count() == 3, "the map shows its way"


def test_what_runs_is_shown_with_its_route_and_why(page, gateway):
    stream = gateway.openai.completions.create(model="demo", prompt="Once upon a time", max_tokens=900, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    expect(page.locator(".request .split")).to_have_count(3, timeout=SLOW)
    page.wait_for_selector(".request details:not([hidden])", timeout=SLOW)
    page.click(".request summary")
    assert "ring of 3" in page.locator(".request pre").inner_text() and "layers 4:8" in page.locator(".request .hops").inner_text()
    shot(page, "running")
    stream.close()
    page.wait_for_selector("#requests .none", timeout=SLOW)


def test_a_peer_dies_before_our_eyes_and_the_answer_completes(page, local, gateway):
    whole = completed(gateway, "tell me a story about a fox")
    page.fill("#chat-text", "tell me a story about a fox")
    page.press("#chat-text", "Enter")
    expect(page.locator("#talk .its .said")).to_have_text(re.compile(".{20}"), timeout=SLOW)
    local.peers[1].kill()
    expect(page.locator(".cell.hole")).to_have_count(4, timeout=SLOW)
    assert "Layers 4:8 are served by nobody; start a peer with swarm-serve --layers 4:8" in page.locator("#banner").inner_text()
    assert page.locator(f".row[data-peer='{local.peers[1].peer_id}'] .bar.silent").count() == 1
    shot(page, "hole")
    local.add("4:8")
    expect(page.locator(".cell.hole")).to_have_count(0, timeout=SLOW)
    expect(page.locator("#stop")).to_be_hidden(timeout=SLOW)
    assert page.locator("#talk .its .said").inner_text().strip() == whole, "to the letter"
    assert "went on over another route" in page.locator("#talk .its .speed").inner_text()
    page.wait_for_selector("#events .covered", timeout=SLOW)
    happened = page.locator("#events").inner_text()
    assert "layers 4:8 are served by nobody" in happened and "joined for layers 4:8" in happened and "every layer is served again" in happened
    page.wait_for_selector("#events .repaired", timeout=SLOW)
    shot(page, "repaired")


def test_a_gateway_with_keys_asks_for_one(browser, local, tmp_path):
    (tmp_path / "keys").write_text("open sesame\n")
    gateway = GatewayProcess(local, tmp_path / "log", "--api-keys", str(tmp_path / "keys"))
    try:
        page = browser.new_page()
        page.goto(f"{gateway.url}/")
        page.wait_for_selector("#key-form", state="visible", timeout=SLOW)
        page.fill("#key", "open sesame")
        page.press("#key", "Enter")
        page.wait_for_selector(".row.peer", timeout=SLOW)
        assert page.locator("#key-form").is_hidden()
        page.fill("#chat-text", "sort 7 3 9 1")
        page.press("#chat-text", "Enter")
        expect(page.locator("#talk .its .said")).to_have_text("1 3 7 9", timeout=SLOW)
        page.close()
    finally:
        gateway.process.kill()

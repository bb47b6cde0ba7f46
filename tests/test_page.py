"""The page to draw on: in headless Chromium its net answers as koch.py's does, and it can be drawn on."""

import base64
import json
import os
import shutil
import subprocess
import time

import numpy as np
import pytest
import torch
from conftest import ROOT, rng

import koch
from tutorials import page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(not BROWSER, reason="needs Chromium")


class Browser:
    """Chromium without a window, asked over a pipe by its DevTools protocol."""

    def __init__(self, folder):
        (theirs_in, self.to), (self.back, theirs_out) = os.pipe(), os.pipe()
        words = "--headless --no-sandbox --disable-gpu --hide-scrollbars --remote-debugging-pipe".split()
        command = [BROWSER, *words, f"--user-data-dir={folder}", "about:blank"]
        # The browser reads its descriptor 3 and writes 4.
        shell = ["bash", "-c", f'exec 3<&{theirs_in} 4>&{theirs_out}; exec "$@"', "-", *command]
        how = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "pass_fds": (theirs_in, theirs_out)}
        how["env"] = os.environ | {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
        self.process, self.number, self.session, self.events, self.rest = subprocess.Popen(shell, **how), 0, None, [], b""
        os.close(theirs_in)
        os.close(theirs_out)
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.ask(f"{domain}.enable")

    def ask(self, method, **parameters):
        """Send a command; return its result, and keep the events that come before it."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        self.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self.read()
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.events.append(answer)

    def write(self, content):
        while content:
            content = content[os.write(self.to, content) :]

    def read(self):
        while b"\0" not in self.rest:
            part = os.read(self.back, 1 << 20)
            assert part, "the browser ended"
            self.rest += part
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def open(self, path, width, scheme):
        """Open a file at a width in pixels, in a colour scheme; return the seconds until it has answered."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", features=features)
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        started = time.perf_counter()
        self.ask("Page.navigate", url=path.resolve().as_uri())
        while not self.run("typeof answer === 'function' && document.querySelectorAll('#ranking li').length > 0"):
            assert time.perf_counter() < started + 20, "no answer after 20 seconds"
            time.sleep(0.02)
        return time.perf_counter() - started

    def run(self, script):
        """Return the value of a script."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def stroke(self, selector, points):
        """Draw with the mouse on an element; points: (x, y) as shares of its sides."""
        self.run(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        box = self.run(f"(b => [b.left, b.top, b.width, b.height])(document.querySelector({selector!r}).getBoundingClientRect())")
        places = [(box[0] + x * box[2], box[1] + y * box[3]) for x, y in points]
        kinds = ["mousePressed", *["mouseMoved"] * (len(points) - 2), "mouseReleased"]
        for kind, (x, y) in zip(kinds, places):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.to)
        os.close(self.back)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = Browser(tmp_path_factory.mktemp("browser"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def net():
    found = koch.load_checkpoint(koch.WEIGHTS)
    found.n_looks = 1  # as the page
    return found


def page_features(browser, images):
    """Return the page's features of drawings (n, 105, 105), in 0..1 by 255ths: (n, D) float64."""
    found = []
    for image in images:
        text = base64.b64encode(np.uint8(np.rint(255 * np.asarray(image, float))).tobytes()).decode()
        script = f"Array.from(features(Float64Array.from(atob('{text}'), c => c.charCodeAt(0) / 255)))"
        found.append(browser.run(script))
    return torch.tensor(found, dtype=torch.float64)


def test_the_page_is_what_its_source_and_the_weights_make(net):
    assert page.PAGE.read_text(encoding="utf-8") == page.page(net)
    source = page.SOURCE.read_text(encoding="utf-8")
    script = source.split("<script>")[1].partition("</script>")[0]
    assert script.count("\n") < 200 and source.count(page.PLACE) == 1
    assert "http" not in source  # nothing is fetched from anywhere


@needs_browser
def test_the_pages_logits_are_kochs(browser, net, invented):
    browser.open(page.PAGE, 1280, "light")
    images = torch.cat([invented.images[:10, 0].float(), torch.rand(2, 105, 105, generator=rng()).mul(255).round() / 255])
    found, wanted = page_features(browser, images), koch.image_features(net, images).double()
    assert (found - wanted).abs().max() < 1e-3
    pairs = [browser.run(f"logit({a.tolist()}, {b.tolist()})") for a, b in zip(found[:-1], found[1:])]
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(pairs), net.logit(wanted[:-1].float(), wanted[1:].float()), rtol=0, atol=1e-3)


@needs_browser
@pytest.mark.thorough
def test_the_page_answers_lakes_trials_as_koch_does(browser, net, data_dir):
    browser.open(page.PAGE, 1280, "light")
    trials = koch.lake_trials(data_dir)
    h = page_features(browser, trials.images.float()).float()
    assert torch.equal(koch.one_shot_answers(net, trials, h), koch.one_shot_answers(net, trials))


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_symbol_that_is_drawn_again_is_named_and_nothing_is_fetched(browser, tmp_path, width, scheme):
    seconds = browser.open(page.PAGE, width, scheme)
    assert seconds < 3, seconds  # one second on a machine that does nothing else
    assert browser.run("document.documentElement.scrollWidth") <= width  # nothing hangs over the side
    browser.run("document.querySelector('#empty').click()")
    hook = [(0.3, 0.2), (0.3, 0.5), (0.3, 0.8), (0.5, 0.8), (0.7, 0.7), (0.7, 0.5)]
    roof = [(0.2, 0.7), (0.35, 0.45), (0.5, 0.2), (0.65, 0.45), (0.8, 0.7), (0.8, 0.7)]
    browser.stroke("#support figure:nth-child(1) canvas", hook)
    browser.stroke("#support figure:nth-child(2) canvas", roof)
    browser.stroke("#support figure:nth-child(2) canvas", [(0.2, 0.8), (0.5, 0.8), (0.8, 0.8)])
    browser.stroke("#query", [(0.75 * x + 0.05, 0.7 * y + 0.2) for x, y in hook])  # smaller, and elsewhere
    time.sleep(0.3)
    assert browser.run("document.querySelector('#verdict').textContent") == "It is A."
    assert browser.run("document.querySelectorAll('#ranking li').length") == 2
    picture = browser.ask("Page.captureScreenshot")["data"]
    (tmp_path / "page.png").write_bytes(base64.b64decode(picture))
    if folder := os.environ.get("KOCH_SCREENSHOTS"):
        shutil.copy(tmp_path / "page.png", f"{folder}/page-{width}-{scheme}.png")
    fetched = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert fetched and all(url.startswith(("file:", "data:")) for url in fetched)


@needs_browser
def test_the_page_can_be_used_by_keys_alone(browser):
    browser.open(page.PAGE, 1280, "light")
    browser.run("document.querySelector('#empty').click()")
    keys = [" ", *["ArrowRight"] * 5, *["ArrowDown"] * 5, " "]
    for pad in ("#support canvas", "#query"):
        browser.run(f"document.querySelector('{pad}').focus()")
        for key in keys:
            browser.ask("Input.dispatchKeyEvent", type="keyDown", key=key)
    time.sleep(0.3)
    assert browser.run("document.querySelector('#verdict').textContent") == "It is A."
    browser.ask("Input.dispatchKeyEvent", type="keyDown", key="Delete")
    assert browser.run("query.strokes.length") == 0

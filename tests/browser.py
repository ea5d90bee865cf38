"""A page in a browser without a window, for tests of what its script does."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
"""Where there is one."""


class Browser:
    """One tab, spoken to by the DevTools protocol over a pipe: no port is opened."""

    def __init__(self, profile: Path) -> None:
        inward, self.write = os.pipe()
        self.read, outward = os.pipe()
        options = "--headless --no-sandbox --disable-gpu --remote-debugging-pipe --no-first-run --disable-extensions"
        self.process = subprocess.Popen(
            [
                "bash",
                "-c",
                f'exec "$0" {options} --user-data-dir="$1" 3<&{inward} 4>&{outward}',
                BROWSER or "",
                profile,
            ],
            pass_fds=(inward, outward),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(inward)
        os.close(outward)
        self.buffer, self.count, self.session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Log", "Runtime", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while (answer := self.message()).get("id") != self.count:
            self.events.append(answer)
        assert "error" not in answer, answer
        return dict(answer["result"])

    def message(self) -> dict[str, Any]:
        until = time.monotonic() + 300
        while b"\0" not in self.buffer:
            assert select.select([self.read], [], [], max(0, until - time.monotonic()))[0], "the browser says nothing"
            piece = os.read(self.read, 1 << 20)
            assert piece, "the browser has gone"
            self.buffer += piece
        first, _, self.buffer = self.buffer.partition(b"\0")
        return dict(json.loads(first))

    def open(self, page: Path | str) -> None:
        """The page, a file or an address, drawn; whatever it reports from here on is in `events`."""
        # By way of an empty page: the one before may still have been asking its server for news.
        for url in ("about:blank", page if isinstance(page, str) else page.as_uri()):
            self.events = []
            self.call("Page.navigate", url=url)
            while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
                self.events.append(self.message())

    def ask(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, expression: str, seconds: float = 60.0) -> None:
        """Until the expression is true; a failure that names it where it never is."""
        end = time.monotonic() + seconds
        while not self.ask(f"Boolean({expression})"):
            assert time.monotonic() < end, f"never came to be: {expression}\n{self.ask('document.body.innerText')}"
            time.sleep(0.02)

    def screen(self, width: int = 1280, height: int = 800, *, dark: bool = False) -> None:
        """How large the window is, and which colours its owner prefers."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        preferred = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[preferred])

    def picture(self, path: Path) -> None:
        """What is in the window, as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def hosts(self) -> set[str]:
        """Where the page has sent requests to, as `host:port`."""
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return {urlsplit(event["params"]["request"]["url"]).netloc for event in sent}

    def press(self, *keys: str) -> None:
        for key in keys:
            self.call("Input.dispatchKeyEvent", type="keyDown", key=key)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def type(self, field: str, text: str) -> None:
        self.ask(f"(f => {{ f.value = {json.dumps(text)}; f.dispatchEvent(new Event('input')) }})({field})")

    def complaints(self) -> list[str]:
        """Errors of the page and what its content policy refused."""
        wrong = ("Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(event) for event in self.events if event.get("method") in wrong]

    def rows(self) -> list[str]:
        """The step of each drawn row, from top to bottom."""
        return list(self.ask("[...document.querySelectorAll('.row .what')].map(e => e.textContent)"))

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)
        os.close(self.read)
        os.close(self.write)

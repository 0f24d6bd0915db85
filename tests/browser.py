"""Chromium without a window, driven through its DevTools pipe: no other package is needed."""

import base64
import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-extensions --disable-dev-shm-usage --mute-audio "
    "--hide-scrollbars --remote-debugging-pipe"
)


class Page:
    """A page of the browser; `events` are those that it told so far."""

    def __init__(self, requests: int, answers: int) -> None:
        self.requests, self.answers, self.rest, self.number = requests, answers, b"", 0
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    session: str | None = None

    def ask(self, method: str, **parameters: Any) -> Any:
        """Call a method of the DevTools protocol, and wait for what it returns."""
        self.number += 1
        sent: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            sent["sessionId"] = self.session
        os.write(self.requests, json.dumps(sent).encode() + b"\0")
        while (told := self.told()).get("id") != self.number:
            self.events.append(told)
        assert "error" not in told, told
        return told["result"]

    def told(self) -> dict[str, Any]:
        """Read one message."""
        while b"\0" not in self.rest:
            more = os.read(self.answers, 1 << 16)
            assert more, "the browser has ended"
            self.rest += more
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def open(self, path: Path) -> None:
        """Open a file, and wait until it is loaded."""
        self.ask("Page.navigate", url=path.absolute().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.told())

    def resize(self, width: int) -> None:
        """Make the window so many CSS pixels wide."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", **size)

    def show(self, scheme: str = "light", media: str = "screen") -> None:
        """Show the page as in a light or a dark environment, on a screen or in print."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", media=media, features=features)

    def run(self, code: str) -> Any:
        """Return the value of JavaScript, waiting for a promise."""
        found = self.ask("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def pdf(self) -> bytes:
        """Return the page in print."""
        return base64.b64decode(
            self.ask("Page.printToPDF", printBackground=False, preferCSSPageSize=True)["data"]
        )

    def complaints(self) -> list[str]:
        """Return what the page wrote to the console, and what it asked for beyond itself."""
        names = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        said = [json.dumps(event["params"]) for event in self.events if event.get("method") in names]
        asked = [
            e["params"]["request"]["url"]
            for e in self.events
            if e.get("method") == "Network.requestWillBeSent"
        ]
        return said + [url for url in asked if not url.startswith(("file:", "data:", "about:"))]


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """Start Chromium with its profile in `folder`, and end it."""
    assert CHROMIUM is not None
    (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
    for pipe in (theirs_in, theirs_out):
        os.set_inheritable(pipe, True)
    actions = [
        # the pipes may have the numbers 3 and 4 already: by way of two others
        (os.POSIX_SPAWN_DUP2, theirs_in, 103),
        (os.POSIX_SPAWN_DUP2, theirs_out, 104),
        (os.POSIX_SPAWN_DUP2, 103, 3),
        (os.POSIX_SPAWN_DUP2, 104, 4),
        (os.POSIX_SPAWN_CLOSE, 103),
        (os.POSIX_SPAWN_CLOSE, 104),
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
    ]
    command = [CHROMIUM, *OPTIONS.split(), f"--user-data-dir={folder}", "about:blank"]
    process = os.posix_spawn(CHROMIUM, command, os.environ, file_actions=actions, setsid=True)
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Page(ours_out, ours_in)
    finally:
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(ours_out)
        os.close(ours_in)

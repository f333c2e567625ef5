"""A headless Chromium over its DevTools pipe: enough to open a page and ask what happened."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOUND = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
_DEADLINE_S = 120

# The browser reads commands from its descriptor 3 and answers on 4, whatever ours are.
_PLACE = """
import os, sys
from fcntl import F_DUPFD, fcntl
reads, writes = (fcntl(int(each), F_DUPFD, 10) for each in sys.argv[1:3])
os.dup2(reads, 3)
os.dup2(writes, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""

# Every element must lie within the page's width; what a clipped ancestor hides counts too.
OVERFLOWING = """
(() => {
  for (const each of document.querySelectorAll('details')) each.open = true;
  const width = document.documentElement.clientWidth;
  const wide = [...document.body.querySelectorAll('*')].filter(each => {
    const box = each.getBoundingClientRect();
    return box.width > 0 && (box.right > width + 1 || box.left < -1);
  });
  const inner = [...document.body.querySelectorAll(':not(svg):not(svg *)')].filter(
    each => each.scrollWidth > each.clientWidth + 1 && each.clientWidth > 0
            && getComputedStyle(each).display !== 'inline' && !each.closest('thead'));
  return [...wide, ...inner].map(each => each.outerHTML.slice(0, 160))
    .concat(document.documentElement.scrollWidth > width ? ['the page scrolls sideways'] : []);
})()
"""


class Browser:
    """One tab. Events are kept in the order in which they came."""

    def __init__(self, process: subprocess.Popen[bytes], to: int, of: int) -> None:
        self._process, self._to, self._from = process, to, of
        self._number = 0
        self._rest = b""
        self._session = ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        told = self._until(lambda told: told.get("id") == self._number)
        return dict(told["result"])

    def _until(self, wanted: Any) -> dict[str, Any]:
        end = time.monotonic() + _DEADLINE_S
        while True:
            told = self._next(end)
            if "error" in told:
                raise RuntimeError(str(told["error"]))
            if "method" in told:
                self.events.append(told)
            if wanted(told):
                return told

    def _next(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not select.select([self._from], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError("Chromium said nothing for too long")
            read = os.read(self._from, 1 << 20)
            if not read:
                raise RuntimeError("Chromium ended")
            self._rest += read
        message, self._rest = self._rest.split(b"\0", 1)
        return dict(json.loads(message))

    def size(
        self, width: int, *, dark: bool = False, phone: bool = False, media: str = "screen"
    ) -> None:
        """The window, and what the page is shown on."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=phone,
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", media=media, features=scheme)

    def open(self, path: Path) -> None:
        self.call("Page.navigate", url=path.resolve().as_uri())
        self._until(lambda told: told.get("method") == "Page.loadEventFired")

    def evaluate(self, expression: str) -> Any:
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return told["result"].get("value")

    def screenshot(self, path: Path) -> None:
        told = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(told["data"]))

    def pdf(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.printToPDF")["data"]))

    def requests(self) -> list[str]:
        """Everything that was asked for, on the network or not."""
        sent = [each for each in self.events if each["method"] == "Network.requestWillBeSent"]
        return [each["params"]["request"]["url"] for each in sent]

    def complaints(self) -> list[str]:
        """What stands in the console: messages, errors, violations."""
        found = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        return [json.dumps(e["params"]) for e in self.events if e["method"] in found]


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A fresh browser with an empty profile, ended at the end."""
    to_read, to_write = os.pipe()
    of_read, of_write = os.pipe()
    flags = "--headless=new --no-sandbox --disable-gpu --remote-debugging-pipe --no-first-run"
    quiet = "--disable-background-networking --disable-component-update --disable-sync"
    place = [sys.executable, "-c", _PLACE, str(to_read), str(of_write)]
    process = subprocess.Popen(
        [*place, FOUND, *flags.split(), *quiet.split(), f"--user-data-dir={profile}"],
        pass_fds=(to_read, of_write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_read)
    os.close(of_write)
    try:
        yield Browser(process, to_write, of_read)
    finally:
        process.terminate()
        process.wait(timeout=20)
        os.close(to_write)
        os.close(of_read)

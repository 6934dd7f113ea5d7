"""A headless Chromium over its DevTools protocol: enough to look at one page."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"


def find() -> str | None:
    """The browser's executable; None where there is none."""
    return next(filter(None, map(shutil.which, (*NAMES, MAC))), None)


class Browser:
    """One tab. ``events`` is all that the browser has told about it."""

    def __init__(self, executable: str, profile: Path):
        flags = ("--headless=new", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run")
        flags += ("--no-sandbox",) if hasattr(os, "geteuid") and os.geteuid() == 0 else ()
        command = [executable, *flags, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.events: list[dict[str, Any]] = []
        self.numbers = itertools.count(1)
        self.session = ""

    def __enter__(self) -> Browser:
        from websockets.sync.client import connect

        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"ws://\S+", line):
                break
        else:
            raise RuntimeError("the browser ended before it listened")
        self.connection = connect(found[0], max_size=None)
        self.socket = self.connection.__enter__()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.__exit__(None, None, None)
        self.process.terminate()
        self.process.wait(20)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        message = {"id": next(self.numbers), "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.socket.send(json.dumps(message))
        while True:
            answer = json.loads(self.socket.recv(timeout=60))
            if answer.get("id") == message["id"]:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def open(self, path: Path) -> None:
        """Load a file; returns when it has been loaded."""
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not self.told("Page.loadEventFired"):
            self.events.append(json.loads(self.socket.recv(timeout=60)))

    def told(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event.get("method") == method]

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def resize(self, width: int, height: int, *, dark: bool = False, phone: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

"""A browser without a window, spoken to by its own protocol over pipes, that tells what a page did."""

from __future__ import annotations  # pytest 6.0 of Debian 11 does not export all the types

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
from pathlib import Path
from typing import Any, Optional

NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--remote-debugging-pipe",
)  # fmt: skip
_PATIENCE_S = 120  # however slow this machine is now


def command() -> Optional[str]:
    """The browser's program, if there is one."""
    return next((found for name in NAMES for found in [shutil.which(name)] if found), None)


class Browser:
    """One page at a time; profile: an empty folder for the browser's own files."""

    def __init__(self, profile: Path) -> None:
        self.trouble: list[str] = []  # errors and warnings of the latest page
        self.requests: list[str] = []  # what it asked for
        self._number = 0
        self._rest = b""
        to_read, to_write = _pipe(), _pipe()
        program = command()
        assert program is not None
        # The browser reads from 3 and writes to 4.
        shell = f'exec "$@" 3<&{to_read[0]} 4>&{to_write[1]}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_read[0], to_write[1]), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_read[0])
        os.close(to_write[1])
        self._out, self._in = to_read[1], to_write[0]
        self._session: Optional[str] = None
        targets = self._call("Target.getTargets")["targetInfos"]
        page = next(each["targetId"] for each in targets if each["type"] == "page")
        self._session = self._call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def close(self) -> None:
        """Ends it, with all of its processes."""
        self._session = None
        try:
            self._call("Browser.close")
            self._process.wait(_PATIENCE_S)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._out)
            os.close(self._in)

    def open(self, path: Path, fragment: str = "", width: int = 1300, height: int = 900, dark: bool = False) -> None:
        """Opens a file, and waits until it was loaded and its script has run."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._call("Emulation.setEmulatedMedia", features=features)
        # A page that differs by its fragment only would not be loaded again.
        self._navigate("about:blank")
        self.trouble.clear()
        self.requests.clear()
        self._navigate(path.resolve().as_uri() + fragment)

    def run(self, script: str) -> Any:
        """What an expression in JavaScript says."""
        told = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def picture(self, path: Path, whole: bool = False) -> None:
        """A picture of what is shown, or of the whole page."""
        told = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **self._clip(whole))
        path.write_bytes(base64.b64decode(told["data"]))

    def print(self, path: Path) -> None:
        """The page as it is printed."""
        told = self._call("Page.printToPDF", printBackground=True)
        path.write_bytes(base64.b64decode(told["data"]))

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self._call("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    def _navigate(self, url: str) -> None:
        self._call("Page.navigate", url=url)
        while True:
            message = self._message()
            if message.get("method") == "Page.loadEventFired":
                return

    def _call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        call: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            call["sessionId"] = self._session
        data = json.dumps(call).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        while True:
            message = self._message()
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], _PATIENCE_S)
            assert ready, "the browser does not answer"
            data = os.read(self._in, 1 << 16)
            assert data, "the browser has ended"
            self._rest += data
        one, self._rest = self._rest.split(b"\0", 1)
        message: dict[str, Any] = json.loads(one)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method: Optional[str], told: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.trouble.append(told["exceptionDetails"].get("exception", {}).get("description", "an exception"))
        elif method == "Log.entryAdded":
            self.trouble.append(told["entry"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.trouble.append(str(told["args"]))


def _pipe() -> tuple[int, int]:
    """A pipe whose ends are none of those that the browser wants to have."""
    ends = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return high[0], high[1]

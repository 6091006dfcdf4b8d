"""A headless Chromium for tests, by the WebDriver protocol; nothing but what Debian packages."""

import base64
import contextlib
import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from mtlbook.ledger import chromium

FLAGS = [*chromium.FLAGS, "--force-device-scale-factor=1"]
KEYS = {"Escape": "\ue00c", "Enter": "\ue007", "Tab": "\ue004", "Space": "\ue00d"}
KEYS |= {"Left": "\ue012", "Up": "\ue013", "Right": "\ue014", "Down": "\ue015"}
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


def why_not() -> str | None:
    """Why there is no browser here, None where there is one."""
    if chromium.find() is None:
        return "no Chromium on this machine (Debian: apt-get install chromium)"
    if shutil.which("chromedriver") is None:
        return "no chromedriver on this machine (Debian: apt-get install chromium-driver)"
    return None


class Browser:
    """One window."""

    def __init__(self, address: str, session: str) -> None:
        self._base = f"{address}/session/{session}"

    def _call(self, method: str, path: str, **content):
        return _call(method, self._base + path, content if method == "POST" else None)

    def open(self, url: str) -> None:
        self._call("POST", "/url", url=url)

    def js(self, script: str, *arguments):
        """The value that a script returns."""
        return self._call("POST", "/execute/sync", script=script, args=list(arguments))

    def patience(self, seconds: float) -> None:
        """How long a script may take."""
        self._call("POST", "/timeouts", script=int(1000 * seconds))

    def until(self, script: str, seconds: float = 60) -> None:
        """Wait until a script returns true: a busy machine shows a change when it has time."""
        end = time.monotonic() + seconds
        while not self.js(script):
            assert time.monotonic() < end, f"waited in vain: {script}"

    def comes(self, script: str, value, seconds: float = 60) -> None:
        """Wait until a script returns a value."""
        end = time.monotonic() + seconds
        while (found := self.js(script)) != value:
            assert time.monotonic() < end, f"{script}: waited in vain for {value}, got {found}"

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, as a person does."""
        actions = [
            {"type": kind, "value": KEYS.get(key, key)}
            for key in keys
            for kind in ("keyDown", "keyUp")
        ]
        source = {"type": "key", "id": "keyboard", "actions": actions}
        self._call("POST", "/actions", actions=[source])

    def click(self, selector: str) -> None:
        found = self._call("POST", "/element", using="css selector", value=selector)
        self._call("POST", f"/element/{found[_ELEMENT]}/click")

    def cdp(self, command: str, **parameters):
        """A command of Chromium's own protocol."""
        return self._call("POST", "/goog/cdp/execute", cmd=command, params=parameters)

    def size(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.cdp("Emulation.setDeviceMetricsOverride", **metrics)

    def media(self, media: str = "", **features: str) -> None:
        """Emulate a medium, such as print, and its features."""
        named = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
        self.cdp("Emulation.setEmulatedMedia", media=media, features=named)

    def screenshot(self, path) -> None:
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))

    def errors(self) -> list[str]:
        """What the console has complained of."""
        log = self._call("POST", "/se/log", type="browser")
        return [entry["message"] for entry in log if entry["level"] == "SEVERE"]


@contextlib.contextmanager
def browser():
    """Start a browser, and end it."""
    driver = subprocess.Popen(
        ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        port = None
        while port is None:
            line = driver.stdout.readline()
            assert line, "chromedriver ended before it listened"
            port = re.search(r"started successfully on port (\d+)", line)
        address = f"http://127.0.0.1:{port[1]}"
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            options = {"args": [*FLAGS, f"--user-data-dir={folder}"], "binary": chromium.find()}
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            content = {"capabilities": {"alwaysMatch": wanted}}
            session = _call("POST", f"{address}/session", content)["sessionId"]
            window = Browser(address, session)
            try:
                yield window
            finally:
                _call("DELETE", f"{address}/session/{session}", None)
    finally:
        driver.terminate()
        driver.communicate(timeout=20)


def _call(method: str, url: str, content):
    body = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=240) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(json.load(error)["value"]["message"].splitlines()[0]) from error

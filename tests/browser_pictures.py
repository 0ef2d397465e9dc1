"""What Chromium makes of the pictures of `picture_kinds`: asked live, or read from what it said before.

    python -m tests.browser_pictures

writes `browser_pictures.json` anew. Needs `chromium` (Debian's package of that name).
"""

from __future__ import annotations

import base64
import fcntl
import html
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.picture_kinds import pictures

SAID = Path(__file__).with_name("browser_pictures.json")
COMMAND = "python -m tests.browser_pictures"
_GRID = (5, 4)  # points of a picture that are written down: columns, rows
_ASKED_S = 180  # a second or two on a free machine
_INSTALLED_S = 240
# Each picture in its natural size on the white that Label Studio shows it on.
_PAGE = """<!doctype html><meta charset="utf-8"><pre id="said"></pre>{images}<script>
function shown(image) {{
  const [width, height] = [image.naturalWidth, image.naturalHeight];
  if (!width) return null;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d", {{willReadFrequently: true}});
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, width, height).data;
  let text = "";
  for (let at = 0; at < pixels.length; at += 4) text += String.fromCharCode(...pixels.slice(at, at + 3));
  return [width, height, btoa(text)];
}}
onload = () => {{
  const found = [...document.images].map(image => [image.title, shown(image)]);
  document.getElementById("said").textContent = JSON.stringify(found) + "END";
}};
</script>"""


class NoBrowser(Exception):
    """There is no Chromium here, and none can be had."""


def chromium(*, install: bool = False) -> str:
    """The path of Chromium.

    Args:
        install: whether root may install Debian's package where there is none.

    Raises:
        NoBrowser: with the reason.
    """
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for path in map(shutil.which, names) if path), None)
    if found:
        return found
    if not install or os.geteuid() != 0 or not shutil.which("apt-get"):
        raise NoBrowser("there is no chromium, and it is not root on Debian who asks")
    with (Path(tempfile.gettempdir()) / "zm-chromium.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the other half of `make test` may install it, too
        return chromium() if any(map(shutil.which, names)) else _installed()


def _installed() -> str:
    quick = ["apt-get", "-qq", "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=10"]
    try:
        subprocess.run([*quick, "update"], check=True, capture_output=True, timeout=_INSTALLED_S)
        command = [*quick, "install", "-y", "--no-install-recommends", "chromium"]
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(command, check=True, capture_output=True, timeout=_INSTALLED_S, env=environment)
    except (OSError, subprocess.SubprocessError) as error:
        raise NoBrowser(f"chromium cannot be installed ({error})") from error
    return chromium()


def version(browser: str) -> str:
    """The version of a browser, as it says it."""
    command = [browser, "--version"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=_ASKED_S).stdout.strip()


def ask(browser: str, files: dict[str, bytes]) -> dict[str, NDArray[np.uint8] | None]:
    """How a browser shows files: (H, W, 3) uint8 RGB each, None for one that it does not show. It starts once."""
    images = "".join(
        f'<img title="{html.escape(name)}" src="data:image/x;base64,{base64.b64encode(content).decode()}">'
        for name, content in files.items()
    )
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(_PAGE.format(images=images))
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--force-color-profile=srgb",
                   f"--user-data-dir={folder}/profile", "--dump-dom", page.as_uri()]  # fmt: skip
        answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_ASKED_S).stdout
    said = re.search(r'<pre id="said">(.*?)END</pre>', answer, re.DOTALL)
    if said is None:
        raise NoBrowser(f"{browser} did not show the page")
    return {name: _pixels(shown) for name, shown in json.loads(html.unescape(said[1]))}


def points(pixels: NDArray[np.uint8]) -> list[str]:
    """The colours of some points of a picture, row by row: "rrggbb rrggbb ..."."""
    height, width = pixels.shape[:2]
    columns, rows = ([(2 * n + 1) * side // (2 * count) for n in range(count)]
                     for side, count in zip((width, height), _GRID, strict=True))  # fmt: skip
    return [" ".join(pixels[row, column].tobytes().hex() for column in columns) for row in rows]


def remembered() -> dict[str, dict[str, Any] | None]:
    """What Chromium said before: by name the `size` (W, H) and the `points` of a picture."""
    found: dict[str, dict[str, Any] | None] = json.loads(SAID.read_text())["pictures"]
    return found


def _pixels(shown: list[Any] | None) -> NDArray[np.uint8] | None:
    if shown is None:
        return None
    return np.frombuffer(base64.b64decode(shown[2]), dtype=np.uint8).reshape(shown[1], shown[0], 3)


def _write() -> None:
    browser = chromium(install=True)
    said = {
        name: None if pixels is None else {"size": [pixels.shape[1], pixels.shape[0]], "points": points(pixels)}
        for name, pixels in ask(browser, pictures()).items()
    }
    head = json.dumps({"browser": version(browser), "command": COMMAND}, indent=1)
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in said.items())
    SAID.write_text(head.removesuffix("\n}") + ',\n "pictures": {\n' + rows + "\n }\n}\n")


if __name__ == "__main__":
    _write()

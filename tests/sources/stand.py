"""A real Label Studio for one way to reach it: as its users know it, with local files and short-lived access tokens."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from plugin_config.demo.setup import label_studio_command
from plugin_config.local.supervisor import free_port
from tests.faults.stand import wait_for
from tests.house import TOKEN
from tests.sources.proxy import reverse_proxy
from tests.sources.table import Way
from tests.tls import Authority

WAYS = ("plain", "path prefix", "TLS, own CA")
ACCESS_TOKEN_S = 5
_SETTINGS = f"""from datetime import timedelta

from label_studio.core.settings.base import *  # which the next line reads from the settings being made
from label_studio.core.settings.label_studio import *

SIMPLE_JWT = {{"ACCESS_TOKEN_LIFETIME": timedelta(seconds={ACCESS_TOKEN_S})}}
"""


@contextmanager
def label_studio(name: str, folder: Path, own: Authority) -> Iterator[Way]:
    """Run Label Studio as long as the `with` block lasts.

    Args:
        name: one of WAYS.
        folder: of its data; the next one goes on with them, which starts faster.
        own: makes the certificate.
    """
    data, files = folder / "data", folder / "files"
    for path in (data, files):
        path.mkdir(exist_ok=True)
    (folder / "short_tokens.py").write_text(_SETTINGS)
    inside = f"http://localhost:{free_port()}"
    with ExitStack() as stack:
        url = inside
        if name != "plain":
            below = "/label-studio" if name == "path prefix" else ""
            tls = None if below else own.context("localhost")
            proxy = stack.enter_context(reverse_proxy(below=below, tls=tls))
            proxy.target, url = inside, proxy.url
        command = label_studio_command(inside, TOKEN, data)
        more = {
            "LABEL_STUDIO_HOST": url, "LOCAL_FILES_SERVING_ENABLED": "true", "LOCAL_FILES_DOCUMENT_ROOT": str(files),
            "DJANGO_SETTINGS_MODULE": "short_tokens", "PYTHONPATH": str(folder),
        }  # fmt: skip
        with (folder / "label-studio.log").open("wb") as log:
            process = subprocess.Popen(command.argv, env={**os.environ, **command.env, **more},
                                       stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       start_new_session=True)  # fmt: skip
        try:
            wait_for(lambda: process.poll() is not None or command.ready is None or command.ready(), within_s=600,
                     told="Label Studio")  # fmt: skip
            if process.poll() is not None:
                told = _last_line(folder / "label-studio.log")
                raise TimeoutError(f"Label Studio ended: {told}")
            yield Way(name, url, TOKEN, files, own)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return (lines or ["nothing"])[-1][:300]

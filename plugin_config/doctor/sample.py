"""A process of the worker that tries one task of each project: image, words, mask. It tells each step in a line."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from plugin_config.errors import EnvironmentBroken, SettingsError
from plugin_config.local.embedded_redis import running_redis_url
from plugin_config.local.supervisor import inherited_environment, module_command
from plugin_config.settings import Settings

_MODULE = "worker.sample_task"
_END_S = 5.0


class SampleProcess:
    """Holds the process from the first question on; `close` ends it. For one thread.

    Args:
        settings: of the worker.
        projects: whose tasks are tried, in this order.
        model: as the MODEL setting.
        draw: whether a model is loaded and masks are drawn.
    """

    def __init__(self, settings: Settings, projects: Sequence[int], *, model: str, draw: bool) -> None:
        try:
            redis_url = running_redis_url(settings)
        except SettingsError:  # then what is learned is not known, and the model is tried as it came
            redis_url = ""
        settings = replace(settings, model=model, redis_url=redis_url)
        only = [] if draw else ["--images-only"]
        folder = settings.state_path / "doctor"
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in `close`)
        self._process = subprocess.Popen(
            [*module_command(_MODULE), *only, "--output-dir", str(folder), *map(str, projects)],
            env={**inherited_environment(), **settings.environment("worker")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._rows: dict[tuple[str, int | None], Mapping[str, Any]] = {}
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, name="sample", daemon=True)
        self._reader.start()

    def step(self, name: str, project: int | None, *, within_s: float) -> Mapping[str, Any]:
        """Wait for what the process tells about a step.

        Args:
            name: of the step: "image", "model", "words" or "mask".
            project: of the task; None for the model.
            within_s: longest wait, seconds.

        Raises:
            EnvironmentBroken: it ended before, or did not tell in time.
        """
        deadline, key = time.monotonic() + within_s, (name, project)
        with self._changed:
            self._changed.wait_for(lambda: key in self._rows or self._ended, max(0.0, deadline - time.monotonic()))
            if key in self._rows:
                return self._rows[key]
        if not self._ended:
            remedy = "A busy machine, or a slow network that weights are fetched over: see the log of a worker."
            raise EnvironmentBroken("process that tries a task", f"did not end this within {within_s:.0f} s", remedy)
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
        remedy = f"Run `python -m {_MODULE}` with the same settings to see more."
        raise EnvironmentBroken("process that tries a task", f"ended: {lines[-1][:300]}", remedy)

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(_END_S)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            try:
                row = json.loads(line)
                key = str(row["step"]), row["project"]
            except (ValueError, KeyError, TypeError):  # a library printed something
                continue
            with self._changed:
                self._rows[key] = row
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

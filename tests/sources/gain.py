"""What the image cache saves: photographs read by two workers, one after the other, that share it."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from plugin_config.label_studio.client import LabelStudio
from plugin_config.vocabulary import parse_vocabulary
from tests.sources.table import LABEL_CONFIG, Way
from worker.label_studio.fetching import fetch_file
from worker.label_studio.image_address import address_in
from worker.label_studio.image_cache import ImageCache
from worker.label_studio.images import ImageLimits

_PHOTOS, _SIDE = 12, 2400


def cache_gain(api: LabelStudio, way: Way, folder: Path) -> Mapping[str, Any]:
    """Upload photographs of about 3 MB and read their files from Label Studio, on this machine, and from the cache."""
    project = int(api.request("POST", "/api/projects/", json={"title": "gain", "label_config": LABEL_CONFIG})["id"])
    content = _photograph()
    files = [(f"{number}.jpg", (f"{number}.jpg", content, "image/jpeg")) for number in range(_PHOTOS)]
    api.request("POST", f"/api/projects/{project}/import", files=files)
    tasks = api.tasks(project, [task.id for task in api.all_tasks(project)])
    value = parse_vocabulary(LABEL_CONFIG).image_value
    limits = ImageLimits(100_000_000, 100_000_000, 30.0, allow_private=False)
    times: dict[str, list[float]] = {"first": [], "second": []}
    for turn in times:
        cache = ImageCache(folder, 1_000_000_000)
        for task in tasks:
            started = time.perf_counter()
            found = fetch_file(address_in(task, value), task=task.id, project=project, label_studio=api, limits=limits,
                               cache=cache)  # fmt: skip
            times[turn].append(time.perf_counter() - started)
            if found != content:
                raise ValueError(f"task {task.id} has another file")
    first, second = (median(times[turn]) for turn in ("first", "second"))
    return {"photographs": _PHOTOS, "bytes_each": len(content), "from_label_studio_ms": round(first * 1000, 1),
            "from_the_cache_ms": round(second * 1000, 1), "ratio": round(first / second, 1)}  # fmt: skip


def _photograph() -> bytes:
    noise = np.random.default_rng(0).normal(128, 25, (_SIDE, _SIDE, 3))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()

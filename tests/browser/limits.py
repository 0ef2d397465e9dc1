"""How many regions of a kind the editor bears: seconds and memory of opening, selecting and submitting, by count."""

from __future__ import annotations

import io
import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np
import psutil
from PIL import Image
from playwright.sync_api import Browser
from playwright.sync_api import Error as PlaywrightError

from plugin_config.control_tags import OUTPUT_KINDS, OutputKind
from plugin_config.label_studio.client import LabelStudio
from tests.browser.cases import Mask
from tests.browser.controls import VERSION, make_task
from tests.browser.editor import Editor, editor
from worker.label_studio.regions import encode_region

KINDS: tuple[OutputKind, ...] = ("brush", "bitmask", "polygon", "rectangle", "ellipse", "keypoint")
COUNTS = (10, 100, 500)
SIZES = ((1920, 1080), (4000, 3000))
MOST_CPU_S = 90.0
MOST_GIGABYTES = 6.0
"""Of the page's process: where a trial is ended, and larger ones of its kind are not begun."""

_PATIENCE_S = 1200.0  # on a machine that does much else

_TAGS = {kind: tag for tag, kind in OUTPUT_KINDS.items()}
_LOOK_S = 0.1


@dataclass(frozen=True)
class Trial:
    """One task of so many regions.

    Attributes:
        kind: of the regions.
        count: how many.
        size: (W, H) of the image in pixels.
        json_mb: size of the result.
        open_s: from the address of the task to everything drawn; None where it was ended before.
        select_s: from a click on a region in the list to its details; None as above.
        submit_s: from the click on Submit to Label Studio's answer; None as above.
        open_cpu_s, select_cpu_s, submit_cpu_s: what of these the page's main thread was busy: what they would take on a
            machine that does nothing else.
        heap_mb: JavaScript's heap after opening.
        memory_gb: most memory of all of Chromium's processes meanwhile.
        ended: why, where it was.
    """

    kind: OutputKind
    count: int
    size: tuple[int, int]
    json_mb: float
    open_s: float | None
    select_s: float | None
    submit_s: float | None
    open_cpu_s: float | None
    select_cpu_s: float | None
    submit_cpu_s: float | None
    heap_mb: float | None
    memory_gb: float
    ended: str = ""


def trials(
    running: Browser, label_studio: LabelStudio, *, kinds: Sequence[OutputKind] = KINDS,
    counts: Sequence[int] = COUNTS, sizes: Sequence[tuple[int, int]] = SIZES,
) -> Iterator[Trial]:
    """Try each kind on each size with ever more regions, until one is too much."""
    too_much = set[tuple[str, tuple[int, int]]]()
    images = {size: _image(size) for size in sizes}
    for count, size, kind in product(counts, sizes, kinds):
        if (kind, size) not in too_much:
            found = _try(running, label_studio, kind, count, size, images[size])
            yield found
            if found.ended:
                too_much.add((kind, size))


def blobs(count: int, size: tuple[int, int]) -> Iterator[Mask]:
    """(H, W) masks of things with uneven outlines, side by side."""
    rng = np.random.default_rng(count)
    columns = math.ceil(math.sqrt(count * size[0] / size[1]))
    cell = size[0] / columns
    turn = np.linspace(0, 2 * math.pi, 60, endpoint=False)
    for number in range(count):
        wobble = sum(rng.uniform(0, 0.12) * np.sin(k * turn + rng.uniform(0, 6)) for k in (2, 3, 5, 9))
        radius = 0.33 * cell * (1 + wobble)
        centre = (np.array([number % columns, number // columns]) + 0.5) * cell
        ring = centre + np.stack([np.cos(turn), np.sin(turn)], axis=1) * radius[:, None]
        mask = np.zeros(size[::-1], dtype=np.uint8)
        cv2.fillPoly(mask, [np.rint(ring).astype(np.int32)], 1)
        yield mask.astype(np.bool_)


def _image(size: tuple[int, int]) -> bytes:
    rng = np.random.default_rng(0)
    coarse = rng.integers(60, 200, (size[1] // 60, size[0] // 60, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _try(
    running: Browser, label_studio: LabelStudio, kind: OutputKind, count: int, size: tuple[int, int], content: bytes
) -> Trial:
    tag = f'<{_TAGS[kind]} name="control" toName="image"><Label value="thing"/></{_TAGS[kind]}>'
    config = f'<View><Image name="image" value="$image"/>{tag}</View>'
    result = [region for mask in blobs(count, size)
              for region in encode_region(mask, kind=kind, control="control", to_name="image", label="thing",
                                          score=0.9)]  # fmt: skip
    project, task = make_task(label_studio, f"{kind} {count} {size[0]}", config, content)
    label_studio.create_prediction(task, result, score=0.9, version=VERSION)
    seconds: list[tuple[float, float]] = []
    heap, ended = None, ""
    with _watched() as watch:
        try:
            with editor(running, label_studio.url) as window:
                window.page.set_default_timeout(_PATIENCE_S * 1000)
                clock = _MainThread(window)
                watch.most = 0.0
                seconds.append(clock.timed(lambda: window.open(project, task, regions=len(result))))
                heap = round(window.page.evaluate("() => performance.memory.usedJSHeapSize") / 1e6)
                seconds.append(clock.timed(lambda: window.select(0)))
                seconds.append(clock.timed(window.submit))
        except PlaywrightError as error:
            ended = watch.reason or error.message.splitlines()[0][:100]
    walls, busy = ([*(round(row[k], 2) for row in seconds), None, None, None] for k in (0, 1))
    return Trial(
        kind, count, size, json_mb=round(len(json.dumps(result)) / 1e6, 3),
        open_s=walls[0], select_s=walls[1], submit_s=walls[2],
        open_cpu_s=busy[0], select_cpu_s=busy[1], submit_cpu_s=busy[2],
        heap_mb=heap, memory_gb=round(watch.most, 2), ended=ended,
    )  # fmt: skip


class _MainThread:
    """Tells how long a page's main thread was busy, in seconds of CPU: no other process on the machine matters."""

    def __init__(self, window: Editor) -> None:
        self._session = window.page.context.new_cdp_session(window.page)
        self._session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def timed(self, work: Callable[[], object]) -> tuple[float, float]:
        """Seconds that something took, and seconds of CPU of the page's main thread."""
        began, before = time.monotonic(), self._busy()
        work()
        return time.monotonic() - began, self._busy() - before

    def _busy(self) -> float:
        metrics = self._session.send("Performance.getMetrics")["metrics"]
        return float(next(row["value"] for row in metrics if row["name"] == "TaskDuration"))


class _Watch:
    """Looks at the memory of this process's Chromium, and ends its page where that is too much."""

    def __init__(self) -> None:
        self.most = 0.0
        self.reason = ""
        self.over = threading.Event()

    def look(self) -> None:
        while not self.over.wait(_LOOK_S):
            sizes = {process: size for process in _chromium() if (size := _resident(process))}
            self.most = max(self.most, sum(sizes.values()) / 1e9)
            page = max(sizes, key=lambda process: sizes[process], default=None)
            if page is None or self.reason:
                continue
            if self.most > MOST_GIGABYTES:
                self._end(page, f"{MOST_GIGABYTES:g} GB")
            elif _cpu_s(page) > MOST_CPU_S:
                self._end(page, f"{MOST_CPU_S:g} s of CPU")

    def _end(self, page: psutil.Process, reason: str) -> None:
        self.reason = f"ended at {reason}"
        with suppress(psutil.Error):
            page.kill()


@contextmanager
def _watched() -> Iterator[_Watch]:
    watch = _Watch()
    thread = threading.Thread(target=watch.look, name="chromium-memory")
    thread.start()
    try:
        yield watch
    finally:
        watch.over.set()
        thread.join()


def _chromium() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it may just have ended
            if "chrom" in process.name():
                found.append(process)
    return found


def _resident(process: psutil.Process) -> int:
    """Bytes of a process, what it shares counted in part; 0 for one that has ended."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)

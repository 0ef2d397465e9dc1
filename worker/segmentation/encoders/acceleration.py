"""Speed: a precision chosen by measuring it on this machine, torch.compile where it is asked for, and one thread where
several would only wait for each other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from plugin_config.errors import ModelUnavailable

log = logging.getLogger(__name__)

AUTO = "auto"
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_REPEATS = 3
_MIN_SPEEDUP = 1.1  # of a lower precision over float32
_MIN_COSINE = 0.99  # with float32's features, to be reached by 99 of 100 patches


def check_precision(setting: str, model: str) -> str:
    """Return the setting if it is `auto` or a name of PRECISIONS.

    Raises:
        ModelUnavailable: it is not; the error names the model.
    """
    if setting not in {AUTO, *PRECISIONS}:
        remedy = f"Set ZEROMASK_PRECISION to one of: {AUTO}, {', '.join(PRECISIONS)}."
        raise ModelUnavailable(f"model {model}", f"there is no precision {setting!r}", remedy)
    return setting


def pick_precision(
    setting: str, run: Callable[[Tensor], Tensor], probe: Tensor, *, speedup: Callable[..., float] | None = None
) -> torch.dtype:
    """Return the precision that a setting names, or the fastest one here that gives the same features.

    `auto` first times a matrix product, which costs milliseconds and is enough on CPUs without bfloat16 units (where
    bfloat16 can be ten times slower). Only a precision that wins there runs the model itself, on random pixels; it is
    taken if it is faster and its features have nearly the direction of float32's.

    Args:
        setting: `auto` or a name of PRECISIONS.
        run: the model: pixels to (B, h, w, D) features; called under autocast.
        probe: (B, 3, H, W) float32 pixels to run it on.
        speedup: (dtype, device) -> speed of matrix products relative to float32; measured when None.
    """
    if setting != AUTO:
        return PRECISIONS[setting]
    device = probe.device
    candidates = (torch.bfloat16, torch.float16) if device.type == "cuda" else (torch.bfloat16,)
    speedup = speedup or matmul_speedup
    best, reference, fastest = torch.float32, None, 0.0
    for candidate in candidates:
        if speedup(candidate, device) < _MIN_SPEEDUP:
            continue
        if reference is None:
            reference, fastest = run(probe), _seconds(lambda: run(probe), device)
        with torch.autocast(device.type, candidate):
            features = run(probe)
            seconds = _seconds(lambda: run(probe), device)
        if _agrees(features, reference) and seconds * _MIN_SPEEDUP < fastest:
            best, fastest = candidate, seconds
    log.info("computing in %s", best)
    return best


def matmul_speedup(dtype: torch.dtype, device: torch.device) -> float:
    """Measure how many times faster matrix products are in this precision than in float32 on this device."""
    size = (4096, 4096) if device.type == "cuda" else (64, 512)  # where bfloat16 is emulated it costs 100 times as much
    one = torch.ones(size, device=device)
    other = torch.ones(size[1], size[1], device=device)
    float32_seconds = _seconds(lambda: one @ other, device)
    low = (one.to(dtype), other.to(dtype))
    return float32_seconds / _seconds(lambda: low[0] @ low[1], device)


def compiled(run: Callable[..., Tensor], *, backend: str = "inductor") -> Callable[..., Tensor]:
    """Wrap a function in torch.compile, which compiles at the first call for each shape of the grid.

    Args:
        run: the function.
        backend: of torch.compile; only tests choose another than its default.
    """
    wrapped: Callable[..., Tensor] = torch.compile(run, backend=backend)
    return wrapped


def _agrees(features: Tensor, reference: Tensor) -> bool:
    """Whether features, (..., D), are finite and have the direction of the reference at 99 of 100 patches."""
    if not bool(features.isfinite().all()):
        return False
    cosines = F.cosine_similarity(features.float(), reference.float(), dim=-1).flatten()
    return float(cosines.quantile(0.01)) >= _MIN_COSINE


def _seconds(work: Callable[[], Tensor], device: torch.device) -> float:
    """Return the fastest of a few runs after a warm-up."""
    times = []
    for _ in range(_REPEATS + 1):
        _synchronize(device)
        started = time.perf_counter()
        work()
        _synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch to one thread within the block, for the calling thread; also a decorator.

    Many small operations gain little from a second thread, and on shared cores the threads wait for each other at each
    of them: learning from three images beside another program took two minutes that way, and 25 s on one thread.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

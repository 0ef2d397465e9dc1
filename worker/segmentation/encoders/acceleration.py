"""How numbers are made faster: a precision chosen by measuring this very machine, compilation where it is wanted, and
one thread where more of them would wait for each other.

It must not know what is computed.
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
_WORTH = 1.1  # how much faster a lower precision must be
_ALIKE = 0.99  # cosine with float32's features that 99 of 100 patches must reach


def check_precision(wanted: str, model: str) -> str:
    """Return the setting when it is one.

    Raises:
        ModelUnavailable: it is not.
    """
    if wanted not in {AUTO, *PRECISIONS}:
        remedy = f"Set ZEROMASK_PRECISION to one of: {AUTO}, {', '.join(PRECISIONS)}."
        raise ModelUnavailable(f"model {model}", f"there is no precision {wanted!r}", remedy)
    return wanted


def pick_precision(
    wanted: str, run: Callable[[Tensor], Tensor], probe: Tensor, *, gain: Callable[..., float] | None = None
) -> torch.dtype:
    """The precision a setting names, or the one that is fastest here and says the same.

    `auto` times a product of matrices first, which costs milliseconds and settles the matter on CPUs without bfloat16
    units (where bfloat16 can be ten times slower). Only what wins there runs the model itself, on random pixels: it is
    taken when it is faster and its features point where float32's do.

    Args:
        wanted: `auto` or a name of PRECISIONS.
        run: the model: pixels to (B, h, w, D) features; called under autocast.
        probe: (B, 3, H, W) float32 pixels for it.
        gain: how many times faster products are in a precision on a device; measured when None.
    """
    if wanted != AUTO:
        return PRECISIONS[wanted]
    device = probe.device
    candidates = (torch.bfloat16, torch.float16) if device.type == "cuda" else (torch.bfloat16,)
    gain = gain or product_gain
    best, reference, fastest = torch.float32, None, 0.0
    for candidate in candidates:
        if gain(candidate, device) < _WORTH:
            continue
        if reference is None:
            reference, fastest = run(probe), _seconds(lambda: run(probe), device)
        with torch.autocast(device.type, candidate):
            features = run(probe)
            seconds = _seconds(lambda: run(probe), device)
        if _agrees(features, reference) and seconds * _WORTH < fastest:
            best, fastest = candidate, seconds
    log.info("computing in %s", best)
    return best


def product_gain(dtype: torch.dtype, device: torch.device) -> float:
    """How many times faster a product of matrices is in this precision than in float32 on this device."""
    size = (4096, 4096) if device.type == "cuda" else (64, 512)  # where bfloat16 is emulated it costs 100 times as much
    one = torch.ones(size, device=device)
    other = torch.ones(size[1], size[1], device=device)
    plain = _seconds(lambda: one @ other, device)
    low = (one.to(dtype), other.to(dtype))
    return plain / _seconds(lambda: low[0] @ low[1], device)


def compiled(run: Callable[..., Tensor], *, backend: str = "inductor") -> Callable[..., Tensor]:
    """The same computation through torch.compile, which works at the first call of each kind of grid.

    Args:
        run: what is computed.
        backend: of torch.compile; another than its own is for tests.
    """
    found: Callable[..., Tensor] = torch.compile(run, backend=backend)
    return found


def _agrees(features: Tensor, reference: Tensor) -> bool:
    if not bool(features.isfinite().all()):
        return False
    cosines = F.cosine_similarity(features.float(), reference.float(), dim=-1).flatten()
    return float(cosines.quantile(0.01)) >= _ALIKE


def _seconds(work: Callable[[], Tensor], device: torch.device) -> float:
    """The fastest of a few runs after a first one."""
    times = []
    for _ in range(_REPEATS + 1):
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread meanwhile, for the thread that asks; also a decorator.

    Many small steps gain little from a second thread, and where the cores are shared the threads wait for each other at
    each of them: learning from three pictures beside another program took two minutes that way, and 25 s on one.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

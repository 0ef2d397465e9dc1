"""Precision by measurement, compilation on request, and one thread where several would wait for each other."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event, Thread

import open_clip
import pytest
import torch
from torch import Tensor

from plugin_config.errors import ModelUnavailable
from tests.models import TINY, noise, write_config
from worker.segmentation.encoders import acceleration
from worker.segmentation.encoders.acceleration import compiled, matmul_speedup, pick_precision
from worker.segmentation.encoders.encoder import Encoder

pytestmark = pytest.mark.usefixtures("one_thread")

PROBE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def model(*, slow: torch.dtype | None, wrong: bool = False, broken: bool = False) -> Callable[[Tensor], Tensor]:
    """Something that takes its time in one precision and may go astray in bfloat16."""

    def run(pixels: Tensor) -> Tensor:
        low = torch.is_autocast_enabled("cpu")
        if slow == (torch.bfloat16 if low else torch.float32):
            time.sleep(0.05)
        features = pixels.permute(0, 2, 3, 1)
        if low and broken:
            return features / 0
        return -features if low and wrong else features

    return run


@pytest.mark.parametrize(
    ("run", "speedup", "picked"),
    [
        pytest.param(model(slow=torch.float32), 4.0, torch.bfloat16, id="faster and alike"),
        pytest.param(model(slow=torch.bfloat16), 4.0, torch.float32, id="products gain, the model does not"),
        pytest.param(model(slow=torch.float32), 0.1, torch.float32, id="products lose: the model is not even tried"),
        pytest.param(model(slow=torch.float32, wrong=True), 4.0, torch.float32, id="faster and other"),
        pytest.param(model(slow=torch.float32, broken=True), 4.0, torch.float32, id="faster and overflowing"),
    ],
)
def test_auto_takes_what_is_faster_and_gives_the_same_features(
    run: Callable[[Tensor], Tensor], speedup: float, picked: torch.dtype
) -> None:
    assert pick_precision("auto", run, PROBE, speedup=lambda _dtype, _device: speedup) == picked


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_a_precision_that_is_named_is_taken_unmeasured(name: str, dtype: torch.dtype) -> None:
    def never(pixels: Tensor) -> Tensor:
        raise AssertionError

    assert pick_precision(name, never, PROBE) == dtype


def test_products_are_measured_in_moments() -> None:
    started = time.process_time()
    speedup = matmul_speedup(torch.bfloat16, torch.device("cpu"))
    assert 0 < speedup < 100
    assert time.process_time() - started < 5


def test_building_an_encoder_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def note(wanted: str, *given: object) -> torch.dtype:
        asked.append(wanted)
        return torch.float32

    monkeypatch.setattr("worker.segmentation.encoders.encoder.pick_precision", note)
    encoder = Encoder("builtin", device="cpu", short_side=32)
    assert not asked
    encoder.embed_images([noise(32, 32)])
    encoder.embed_images([noise(32, 40)])
    assert asked == ["auto"]


def test_bfloat16_features_point_where_float32s_do() -> None:
    image = noise(32, 48)
    plain, low = (Encoder("builtin", device="cpu", short_side=32, precision=name) for name in ("fp32", "bf16"))
    one, other = (encoder.embed_images([image])[0].features for encoder in (plain, low))
    assert other.dtype == torch.float32
    assert not torch.equal(one, other)
    assert float((one * other).sum(dim=-1).min()) > 0.99


def test_an_unknown_precision_is_an_error() -> None:
    with pytest.raises(ModelUnavailable, match="no precision 'fp8'") as caught:
        Encoder("builtin", device="cpu", precision="fp8")
    assert "auto, fp32, bf16, fp16" in caught.value.remedy


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """A tiny native ViT as users load it."""
    torch.manual_seed(0)
    network = open_clip.CLIP(**TINY)
    torch.save(network.state_dict(), write_config(tmp_path, TINY) / "open_clip_pytorch_model.bin")
    return f"local-dir:{tmp_path}"


SLOW = pytest.mark.skipif("ZEROMASK_TEST_COMPILE" not in os.environ, reason="takes minutes: ZEROMASK_TEST_COMPILE=1")


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=SLOW)])
def test_a_compiled_tower_gives_the_same_features_at_every_size(
    backend: str, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captured by torch.compile for real; the code that its own backend writes is compiled only where asked for."""
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("no C++ compiler on this machine: nothing to compile with")
    monkeypatch.setattr("worker.segmentation.encoders.encoder.compiled", partial(compiled, backend=backend))
    plain, fast = (Encoder(tiny, device="cpu", short_side=64, compile_backbone=on) for on in (False, True))
    images = [noise(64, 64), noise(64, 128)]
    for one, other in zip(plain.embed_images(images), fast.embed_images(images), strict=True):
        torch.testing.assert_close(one.features, other.features, rtol=0, atol=1e-4)


def test_a_machine_that_cannot_compile_fails_at_the_start(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def fails(*given: object, **named: object) -> Tensor:
            raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found")

        return fails

    monkeypatch.setattr("worker.segmentation.encoders.encoder.compiled", broken)
    with pytest.raises(ModelUnavailable, match="No working C") as caught:
        Encoder(tiny, device="cpu", short_side=64, compile_backbone=True)
    assert "ZEROMASK_COMPILE=0" in caught.value.remedy


def test_one_thread_is_for_the_time_and_the_thread_that_asks() -> None:
    begun, asked, counts = Event(), Event(), []

    def at_work() -> None:
        counts.append(torch.get_num_threads())  # a thread takes its number when it first computes
        begun.set()
        asked.wait(60)
        counts.append(torch.get_num_threads())

    torch.set_num_threads(2)
    try:
        other = Thread(target=at_work)
        other.start()
        assert begun.wait(60)
        with pytest.raises(ValueError, match="broken"), acceleration.one_thread():
            assert torch.get_num_threads() == acceleration.one_thread()(torch.get_num_threads)() == 1
            asked.set()
            other.join(60)
            raise ValueError("broken")
        assert (torch.get_num_threads(), counts) == (2, [2, 2])
    finally:
        torch.set_num_threads(1)

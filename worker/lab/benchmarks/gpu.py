"""Images per second from a picture's bytes to its regions, by the size of batches, and what of that is the encoder."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console

from plugin_config.capacity import StageSeconds
from worker.lab.benchmarks.emulated import TINY, EmulatedPicture, draw, emulate, random_weights
from worker.lab.benchmarks.targets import Figure
from worker.label_studio.images import ImageLimits, decode_image
from worker.label_studio.results import encode_segments
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.memory import is_out_of_memory
from worker.segmentation.segmenter import Segmenter
from worker.service.batching import free_memory

_LABELS = 20
_LIMITS = ImageLimits(most_bytes=100_000_000, most_pixels=100_000_000, timeout_s=30, allow_private=False)


@dataclass(frozen=True)
class GpuSize:
    """What is measured.

    Attributes:
        models: open_clip architectures; their weights are random.
        side: of the square images, pixels; they enter the model at this size.
        batches: numbers of images in one forward pass.
        repeats: of each measurement, after one that is not counted; the fastest counts.
    """

    models: Sequence[str] = ("ViT-B-16", "ViT-L-14")
    side: int = 448
    batches: Sequence[int] = (1, 2, 4, 8, 16, 32, 64)
    repeats: int = 5


QUICK_GPU = GpuSize((TINY,), 128, (1, 2), 1)


def gpu_figures(size: GpuSize, device: str, console: Console) -> Mapping[str, Figure]:
    """Measure stages one by one, as a worker computes them; five things in each image, 20 labels.

    Args:
        size: what to measure.
        device: auto, cpu, cuda or cuda:N.
        console: where progress is shown.

    Returns:
        gpu_device: what it ran on. For each MODEL,
        MODEL_decode_ms: of a JPEG; MODEL_draw_ms: from its features to Label Studio regions; both of one image.
        MODEL_embed_ms_B: of one image in a batch of B; MODEL_images_per_s_B: of one worker whose stages run side by
            side, if they do not slow each other: the slowest sets the pace. MODEL_encoder_share_B: of the time of one
            image in decoder, encoder and drawing, what is the encoder's, 0 to 1.
        MODEL_most_batch: the largest batch that fits the memory. MODEL_memory_mb: most memory of the GPU that tensors
            held; 0 on a CPU. MODEL_precision: what the encoder computes in.
    """
    figures: dict[str, Figure] = {}
    for name in size.models:
        with tempfile.TemporaryDirectory(prefix="zm-g-") as folder, console.status(f"{name}: random weights ..."):
            encoder = Encoder(random_weights(Path(folder), name), device=device, short_side=size.side)
        with console.status(f"{name} on {encoder.device} ..."):
            found = _model_figures(Segmenter(encoder), size)
        figures["gpu_device"] = _device_name(encoder.device)
        figures.update({f"{name}_{figure}": value for figure, value in found.items()})
        del encoder
        free_memory()
    return figures


def _model_figures(segmenter: Segmenter, size: GpuSize) -> dict[str, Figure]:
    device = segmenter.encoder.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    shown = emulate(draw(size.side, size.side), _LABELS, device)
    jpeg = _jpeg(shown)
    (embedding,) = segmenter.embed([shown.image])

    def seconds(work: Callable[[], object]) -> float:
        return _fastest(work, size.repeats, device)

    decode_s = seconds(lambda: decode_image(jpeg, subject="benchmark", limits=_LIMITS))
    draw_s = seconds(lambda: _draw(segmenter, embedding, shown))
    figures: dict[str, Figure] = {"decode_ms": 1000 * decode_s, "draw_ms": 1000 * draw_s, "most_batch": 0}
    for batch in size.batches:
        images = [shown.image] * batch
        try:
            embed_s = seconds(lambda images=images: segmenter.embed(images)) / batch  # type: ignore[misc]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            break
        stages = StageSeconds(decode_s, embed_s, draw_s, 0.0)
        figures |= {
            f"embed_ms_{batch}": 1000 * embed_s, f"images_per_s_{batch}": 1 / stages.pace_s,
            f"encoder_share_{batch}": embed_s / stages.way_s, "most_batch": batch,
        }  # fmt: skip
    on_gpu = device.type == "cuda"
    figures["memory_mb"] = torch.cuda.max_memory_allocated(device) / 2**20 if on_gpu else 0.0
    return {**figures, "precision": str(segmenter.encoder.precision).removeprefix("torch.")}


def _draw(segmenter: Segmenter, embedding: Any, shown: EmulatedPicture) -> list[dict[str, Any]]:
    found = segmenter.segment(embedding, shown.vocabulary, shown.image, head=shown.head)
    return encode_segments(found.segments).regions


def _fastest(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Seconds of the fastest run; what a GPU has been given to do is waited for."""
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def _jpeg(shown: EmulatedPicture) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(shown.image).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)

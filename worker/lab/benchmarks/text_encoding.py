"""Cost of a label: its text through the text tower, against open_clip's `encode_text`, and read from the disk."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console

from worker.lab.benchmarks.emulated import random_weights
from worker.lab.benchmarks.timing import time_in_turns
from worker.segmentation.encoders.checkpoints import load_model
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.text.encoder import TEMPLATES, TextEncoder
from worker.segmentation.text.negatives import NEGATIVE_WORDS
from worker.segmentation.text.store import TextStore


def text_figures(architecture: str, turns: int, device: str, console: Console) -> Mapping[str, float]:
    """Measure with random weights.

    Args:
        architecture: of open_clip, or TINY.
        turns: measurements of each.
        device: auto, cpu, cuda or cuda:N.
        console: where progress is shown.

    Returns:
        text_ms: a new label in every template; text_speedup: open_clip's `encode_text` of these prompts over that.
        text_start_ms: the negatives and twenty labels at the first start with a model; text_restart_ms: at later
            starts, from the disk, including the fingerprint of the weights; fingerprint_ms: that alone.
        negatives: how many negative words there are.
    """
    with tempfile.TemporaryDirectory(prefix="zm-t-") as folder:
        model = random_weights(Path(folder), architecture)
        encoder = Encoder(model, device=device)
        network, tokenizer = load_model(model)
        network = network.to(encoder.device)
        words = [(f"thing {k}",) for k in range(20)]
        store = TextStore(Path(folder) / "texts")
        prompts = [template.format("striped thing") for template in TEMPLATES]

        @torch.inference_mode()
        def encode_prompts() -> None:
            network.encode_text(tokenizer(prompts).to(encoder.device))

        def start(store: TextStore | None) -> None:
            TextEncoder(encoder, store=store).with_background(words)

        start(store)
        times = time_in_turns(
            {
                "plain": encode_prompts,
                "text": lambda: TextEncoder(encoder).classes([("striped thing",)]),
                "start": lambda: start(None),
                "restart": lambda: start(store),
                "fingerprint": encoder.text_fingerprint,
            },
            turns=turns, console=console, title="texts",
        )  # fmt: skip
    return {
        "text_ms": times.ms("text"), "text_speedup": times.ratio("plain", "text"), "text_start_ms": times.ms("start"),
        "text_restart_ms": times.ms("restart"), "fingerprint_ms": times.ms("fingerprint"),
        "negatives": len(NEGATIVE_WORDS),
    }  # fmt: skip

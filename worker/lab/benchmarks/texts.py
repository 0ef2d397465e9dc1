"""What a label costs: its text through the model's text tower, against open_clip's own way, and from the disk.

It must not know images.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console

from worker.lab.benchmarks.clock import take_turns
from worker.lab.benchmarks.random_models import random_weights
from worker.segmentation.encoders.checkpoints import load_model
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.text.encoder import TEMPLATES, TextEncoder
from worker.segmentation.text.negatives import NEGATIVE_WORDS
from worker.segmentation.text.store import TextStore


def text_figures(architecture: str, turns: int, device: str, console: Console) -> Mapping[str, float]:
    """Measure with random weights.

    Returns:
        text_ms: a new label in every template; text_speedup: open_clip's `encode_text` of these prompts over that.
        text_start_ms: the negatives and twenty labels at the first start of a model; text_restart_ms: at any later one,
            from the disk, the fingerprint of the weights included; fingerprint_ms: that alone.
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
        def plainly() -> None:
            network.encode_text(tokenizer(prompts).to(encoder.device))

        def start(kept: TextStore | None) -> None:
            TextEncoder(encoder, store=kept).with_background(words)

        start(store)
        times = take_turns(
            {
                "plain": plainly,
                "text": lambda: TextEncoder(encoder).classes([("striped thing",)]),
                "start": lambda: start(None),
                "restart": lambda: start(store),
                "fingerprint": encoder.text_fingerprint,
            },
            turns=turns, console=console, told="texts",
        )  # fmt: skip
    return {
        "text_ms": times.ms("text"), "text_speedup": times.ratio("plain", "text"), "text_start_ms": times.ms("start"),
        "text_restart_ms": times.ms("restart"), "fingerprint_ms": times.ms("fingerprint"),
        "negatives": len(NEGATIVE_WORDS),
    }  # fmt: skip

"""`python -m worker.lab.benchmarks.compute`: the computation of a worker without queue or network, for comparison.

It prints "ready" when the model is warm. For each line "SECONDS" on standard input it works that long and prints images
per second.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import torch

from plugin_config.vocabulary import Vocabulary, parse_vocabulary
from worker.lab.benchmarks.counting_server import CONFIG, stamped
from worker.label_studio.images import ImageLimits, decode_image
from worker.label_studio.results import encode_segments
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.segmenter import Segmenter

_LIMITS = ImageLimits(most_bytes=100_000_000, most_pixels=100_000_000, timeout_s=30, allow_private=False)


def main(arguments: Sequence[str]) -> int:
    """Serve the lines of standard input until it ends."""
    parser = argparse.ArgumentParser(description="Bare compute, for benchmarks.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--short-side", type=int, required=True)
    parser.add_argument("--picture", type=Path, required=True)
    found = parser.parse_args(arguments)
    torch.set_num_threads(1)
    segmenter = Segmenter(Encoder(found.model, device="cpu", short_side=found.short_side))
    picture, vocabulary, numbers = found.picture.read_bytes(), parse_vocabulary(CONFIG), count(1)
    for _ in range(2):
        compute(segmenter, vocabulary, stamped(picture, next(numbers)))
    _print_line("ready")
    for line in sys.stdin:
        started, done = time.perf_counter(), 0
        while time.perf_counter() - started < float(line):
            compute(segmenter, vocabulary, stamped(picture, next(numbers)))
            done += 1
        _print_line(f"{done / (time.perf_counter() - started):.6f}")
    return 0


def compute(segmenter: Segmenter, vocabulary: Vocabulary, content: bytes) -> int:
    """Do a worker's computation for one task, from the bytes of the file to regions; return how many there are."""
    image = decode_image(content, subject="benchmark", limits=_LIMITS)
    (embedding,) = segmenter.embed([image])
    return len(encode_segments(segmenter.segment(embedding, vocabulary, image).segments).regions)


def _print_line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A worker on a host of its own whose GPU is a pause: `python -m tests.faults.sleeping`.

Its encoder sleeps for STAND_IN_EMBED_S seconds an image, so that several run at full pace on a machine of few cores,
and it finds one square in every image. Everything else is the real worker. STAND_IN_HOST is the name of its host.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plugin_config.vocabulary import Vocabulary
from worker.__main__ import main
from worker.segmentation.segmenter import LabelSegment, Segmentation
from worker.service.context import WorkerContext
from worker.service.stages import PredictionStages


class SleepingModel:
    """In place of the encoder and the drawing of masks. `embed_s`: seconds an image."""

    def __init__(self, embed_s: float) -> None:
        self._embed_s = embed_s

    def embed(self, images: Sequence[NDArray[np.uint8]], **_: Any) -> list[Any]:
        """Sleep; an image is its own embedding."""
        time.sleep(self._embed_s * len(images))
        return list(images)

    def segment(self, _: Any, vocabulary: Vocabulary, image: NDArray[np.uint8], **__: Any) -> Segmentation:
        """One square."""
        mask = np.zeros(image.shape[:2], dtype=bool)
        mask[10:40, 10:40] = True
        return Segmentation((LabelSegment(vocabulary.labels[0], mask, 0.9),), 0.9)


def stages(context: WorkerContext) -> PredictionStages:
    """The real stages, on a model that sleeps."""
    model: Any = SleepingModel(float(os.environ["STAND_IN_EMBED_S"]))
    context.embeddings = model
    context.segmenter.segment = model.segment  # type: ignore[method-assign]
    return PredictionStages(context)


if __name__ == "__main__":
    host = os.environ["STAND_IN_HOST"]
    socket.gethostname = lambda: host
    sys.exit(main(sys.argv[1:], stages=stages))

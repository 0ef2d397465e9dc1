"""Cost of a large vocabulary: a picture with 1,200 labels over the same picture with 10, on the built-in model.

The texts are embedded before: what is timed is each further picture.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from plugin_config.vocabulary import Label, Vocabulary
from worker.lab.benchmarks.timing import Timings, time_in_turns
from worker.lab.drawn_world.annotation_set import annotation_scene, index_truth
from worker.lab.drawn_world.phrases import TEMPLATES
from worker.lab.drawn_world.world import COLOURS, NOUNS, SHAPES, TEXTURES
from worker.learning.interfaces import Adapter, Example
from worker.learning.recipes.quick.recipe import QuickRecipe
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.segmenter import Segmenter

FEW, MANY = 10, 1200
SIZES = {"64x40": (40, 64), "320x240": (240, 320), "1920x1080": (1080, 1920)}
"""(H, W) in pixels by name."""

_FIRST = ("red circle", "blue star", "green square", "yellow heart", "purple triangle", "orange ring", "pink cross",
          "brown crescent", "red square", "blue circle")  # fmt: skip
_SHOWN = 4  # of these in each picture, so that the picture itself costs the same with few labels and with many
_EXAMPLES = 3


def label_figures(turns: int, device: str, console: Console, *, quick: bool) -> Mapping[str, float]:
    """Measure with the built-in model.

    Args:
        turns: measurements of each.
        device: auto, cpu, cuda or cuda:N.
        console: where progress is shown.
        quick: only the smallest picture, without learning much.

    Returns:
        By size of the picture, labels_1200_W: from pixels to segments with 1,200 labels, over the same with 10;
        labels_1200_W_masks: the same without embedding the image; and each with `_learned`, where corrections of ten
        labels were learned from.
    """
    segmenter = Segmenter(Encoder("builtin", device=device))
    vocabularies = {"few": drawn_labels(FEW), "many": drawn_labels(MANY)}
    with console.status("texts and corrections ..."):
        for vocabulary in vocabularies.values():
            segmenter.read_words(vocabulary)
        adapter = _adapter(segmenter, vocabularies["few"], views=1 if quick else 32)
    figures: dict[str, float] = {}
    for name, size in SIZES.items() if not quick else [("64x40", SIZES["64x40"])]:
        image = _picture(size)
        (embedding,) = segmenter.embed([image])

        def segment(
            key: str, head: Adapter | None, image: NDArray[np.uint8] = image, embedding: object = embedding
        ) -> Callable[[], object]:
            return lambda: segmenter.segment(embedding, vocabularies[key], image, head=head)  # type: ignore[arg-type]

        contestants: dict[str, Callable[[], object]] = {"embed": lambda image=image: segmenter.embed([image])}  # type: ignore[misc]
        for key in vocabularies:
            contestants |= {key: segment(key, None), f"{key}_learned": segment(key, adapter)}
        times = time_in_turns(contestants, turns=turns, console=console, title=f"{MANY} labels, {name}")
        for head in ("", "_learned"):
            figures[f"labels_{MANY}_{name}{head}"] = _ratio_with(times, "embed", f"many{head}", f"few{head}")
            figures[f"labels_{MANY}_{name}_masks{head}"] = times.ratio(f"many{head}", f"few{head}")
    return figures


def drawn_labels(count: int) -> Vocabulary:
    """Labels in words of the drawn world: ten different things first, then other phrases, many of which are true of the
    same things, so that a picture shows many of them.
    """
    words = itertools.product((None, *COLOURS), (None, *TEXTURES), (*SHAPES, *NOUNS))
    names = [" ".join(word for word in found if word) for found in words]
    phrases = [template.format(name) for template in TEMPLATES for name in names]
    rest = np.random.default_rng(0).permutation([text for text in dict.fromkeys(phrases) if text not in _FIRST])
    return Vocabulary(tuple(
        Label(str(text), (str(text),), control="brush", to_name="image", image_value="$image", output="brush")
        for text in [*_FIRST, *rest][:count]
    ))  # fmt: skip


def _picture(size: tuple[int, int]) -> NDArray[np.uint8]:
    rng = np.random.default_rng(1)
    return annotation_scene(rng, _FIRST[:_SHOWN], number=0, size=size, unit=0.6 * min(size)).image


def _adapter(segmenter: Segmenter, vocabulary: Vocabulary, *, views: int) -> Adapter:
    """Learned from a few drawn pictures of ten labels, and served at half strength, which takes every step."""
    examples = []
    for number in range(_EXAMPLES):
        scene = annotation_scene(np.random.default_rng((2, number)), _FIRST, number=number, size=(150, 200), unit=90)
        truth = index_truth(scene, _FIRST).astype(np.int16) - 1
        (embedding,) = segmenter.embed([scene.image])
        examples.append(Example(f"{number}", scene.image, embedding, vocabulary.words, truth))
    return QuickRecipe(views=views).fit(examples, vocabulary.words, segmenter).at_strength(0.5)


def _ratio_with(times: Timings, shared: str, one: str, other: str) -> float:
    """Time of `one` over that of `other`, where both come after `shared`: the median over the turns."""
    turns = zip(times.seconds[shared], times.seconds[one], times.seconds[other], strict=True)
    return statistics.median((before + numerator) / (before + denominator) for before, numerator, denominator in turns)

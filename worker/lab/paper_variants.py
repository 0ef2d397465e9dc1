"""The trainings that the rows of LSeg, SAZS and ZegCLIP in docs/research/papers.md are measured with."""

from __future__ import annotations

from dataclasses import dataclass

from worker.learning.recipes.dense.recipe import DenseRecipe, LSegRecipe, SazsRecipe
from worker.learning.recipes.dense.zegclip_recipe import DESCRIPTOR, NON_EXCLUSIVE, PROMPTS, ZegclipRecipe

UNBLENDED, ONE_VIEW = "unblended", "one_view"
_INFERENCES = {"network": "network alone", "outlines": "with the outline stage", "oracle": "oracle (sees the truth)",
               "strange": "another image's outlines", UNBLENDED: "not blended with zero-shot",
               ONE_VIEW: "each image seen once"}  # fmt: skip
OF_LSEG = (UNBLENDED, ONE_VIEW)
"""Inferences of LSeg beside those of `zeroshot.INFERENCES`."""


@dataclass(frozen=True)
class Variant:
    """One training, and how it is judged.

    Attributes:
        paper: whose rows these are.
        name: of the rows.
        recipe: what is trained; None = training-free.
        inferences: names in `zeroshot.INFERENCES`, a row for each; the row of "outlines", as it is served, has just
            the name, but for SAZS; of LSeg there are UNBLENDED and ONE_VIEW. SAZS is never blended.
        on_photographs: whether it is one of the few that photographs are for.
        model: whose tower it is trained on, but for photographs.
        splits: of the drawn world that it is measured on.
        generates: whether the training goes on with generated features of the unseen labels, whose names it is told.
    """

    paper: str
    name: str
    recipe: DenseRecipe | None
    inferences: tuple[str, ...] = ("outlines",)
    on_photographs: bool = False
    model: str = "builtin"
    splits: tuple[str, ...] = ("words", "pairs")
    generates: bool = False

    def row(self, inference: str) -> str:
        """Name of a row."""
        served = self.paper != "sazs" and inference == "outlines"
        return self.name if served else f"{self.name}, {_INFERENCES[inference]}"

    def judged(self, *, photographs: bool) -> tuple[str, ...]:
        """The inferences; on photographs nothing is blended."""
        return tuple(one for one in self.inferences if not (photographs and one in OF_LSEG))


def _block(name: str, depth: int) -> LSegRecipe:
    return LSegRecipe(changes={"block": name, "block_depth": depth})


def _zegclip(name: str, recipe: DenseRecipe, *, on_photographs: bool = False) -> Variant:
    return Variant("zegclip", name, recipe, on_photographs=on_photographs, model="builtin-vit", splits=("pairs",))


_ALL = ("network", "outlines", "oracle")
_ALONE = (PROMPTS, NON_EXCLUSIVE, DESCRIPTOR)
# The ones that matter most come first: what no time is left for is read from the file.
VARIANTS = (
    Variant("lseg", "training-free", None),
    Variant("lseg", "lseg", LSegRecipe(), ("outlines", *OF_LSEG), on_photographs=True),
    # Next to the training that it goes on with, so that a process that measures both trains that once.
    Variant("lseg", "lseg_generator", LSegRecipe(), on_photographs=True, generates=True),
    Variant("sazs", "alignment", SazsRecipe(without=("bce", "attention", "shape")), _ALL),
    Variant("sazs", "+ edges, attention, shape", SazsRecipe(), (*_ALL, "strange"), on_photographs=True),
    _zegclip("fine_tuned", ZegclipRecipe(without=_ALONE, changes={"trains_tower": True}), on_photographs=True),
    _zegclip("dpt_nel_rd", ZegclipRecipe(), on_photographs=True),
    _zegclip("transductive", ZegclipRecipe(transductive=True)),
    _zegclip("lseg", LSegRecipe()),
    _zegclip("fixed", ZegclipRecipe(without=_ALONE)),
    _zegclip("dpt", ZegclipRecipe(without=(NON_EXCLUSIVE, DESCRIPTOR))),
    _zegclip("dpt_nel", ZegclipRecipe(without=(DESCRIPTOR,))),
    Variant("lseg", "lseg, one DepthwiseBlock", _block("depthwise", 1)),
    Variant("lseg", "lseg, two DepthwiseBlocks", _block("depthwise", 2)),
    Variant("lseg", "lseg, one BottleneckBlock", _block("bottleneck", 1)),
    Variant("lseg", "lseg, two BottleneckBlocks", _block("bottleneck", 2)),
    Variant("sazs", "+ edges", SazsRecipe(without=("attention", "shape")), _ALL),
    Variant("sazs", "+ edges, attention", SazsRecipe(without=("shape",)), _ALL),
)

"""What PADing has learned, as a head: proposals, and a classifier of any labels, new ones too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from plugin_config.errors import LearningError
from worker.learning.generator.storing import to_state
from worker.learning.generator.trained import TrainedGenerator
from worker.learning.generator.vectors import EQUAL
from worker.learning.interfaces import AdapterState, Words
from worker.learning.proposals.entering import DecodedProposals, propose
from worker.learning.proposals.query_decoder import QueryDecoder
from worker.learning.recipes.pading.posterior import label_shares, proposal_numbers, share_logits
from worker.segmentation.class_scores import ClassScores, blend
from worker.segmentation.encoders.acceleration import one_thread
from worker.segmentation.heads import ImageScores
from worker.segmentation.outlines.refinement import ADAPTIVE, FINE, Method
from worker.segmentation.segmenter import Segmenter

DECODER, GENERATOR, CLASSIFIER = "decoder.", "generator.", "classifier."
"""Beginnings of the names of stored tensors."""

_NUMBERING_SIDE = 512  # pixels of the long side at which things are numbered
_MOST_LATER = 64  # rows of names that came later: of one image, and kept; each takes some 0.1 s to learn

_Row = int | tuple[Tensor, Tensor]
"""A row of the trained classifier, or (D,) weights and () bias of one that came later."""


class LaterNames:
    """Holds the rows of names that were not known in training, each learned when it is first asked for. Those that were
    asked for longest ago are forgotten, and learned again alike.

    A name's row does not depend on other names that came later, so that the order in which they come changes nothing.

    Args:
        trained: generator and classifier; None = there is no generator, and no name gets a row.
    """

    def __init__(self, trained: TrainedGenerator | None) -> None:
        self._trained = trained
        self._rows: dict[tuple[str, ...], _Row] = {}

    def row(self, texts: tuple[str, ...], vector: Tensor) -> _Row | None:
        """The row of a name; that of a label with the same vector, where there is one.

        Args:
            texts: the name and its synonyms.
            vector: (D,) float32 label vector.
        """
        if self._trained is None:
            return None
        row = self._rows.pop(texts, None)
        if row is None:
            row = self._learned(self._trained, vector)
        self._rows[texts] = row  # as the last one
        if len(self._rows) > _MOST_LATER:
            self._rows.pop(next(iter(self._rows)), None)
        return row

    def _learned(self, trained: TrainedGenerator, vector: Tensor) -> _Row:
        vector = vector.to(trained.texts)
        likeness = F.cosine_similarity(vector[None], trained.texts)
        if float(likeness.max()) > EQUAL:
            return int(likeness.argmax())
        classifier = trained.with_label(vector).classifier
        return classifier.weight[-2].detach(), classifier.bias[-2].detach()


@dataclass(frozen=True, eq=False)  # tensors have no truth value to compare by
class PadingAdapter:
    """A query decoder, and a classifier of what it proposes.

    Attributes:
        recipe: name of the recipe that made it.
        form: number of the format of its state.
        segmenter: the model; its weights are frozen and no part of the state.
        decoder: trained, in evaluation mode.
        classifier: (D -> S + U + 1): the seen labels, the unseen ones, no object last.
        seen: texts of the labels whose masks were trained with.
        unseen: texts of those for which vectors were generated.
        trained: the generator, with the same classifier; None = without.
        strength: see `worker.learning.interfaces.Adapter`.
        later: rows of names that came later.
    """

    recipe: str
    form: int
    segmenter: Segmenter
    decoder: QueryDecoder
    classifier: nn.Linear
    seen: Words
    unseen: Words = ()
    trained: TrainedGenerator | None = None
    strength: float = 1.0
    later: LaterNames = field(init=False)

    def __post_init__(self) -> None:
        if self.classifier.out_features != len(self.seen) + len(self.unseen) + 1:
            rows = self.classifier.out_features
            raise ValueError(f"{rows} rows for {len(self.seen)} seen and {len(self.unseen)} unseen labels")
        object.__setattr__(self, "later", LaterNames(self.trained))

    @property
    def refinement(self) -> Method:
        """See `worker.segmentation.heads.Head`; at strength 0 the scores are the zero-shot ones."""
        return FINE if self.strength else ADAPTIVE

    def scores(self, image: ImageScores) -> ClassScores:
        """See `worker.segmentation.heads.Head`. Without the image it keeps the zero-shot scores."""
        if self.strength == 0 or image.image is None:
            return image.zero_shot
        return self.read(propose(image.image, self.decoder, self.segmenter), image)

    def things(self, image: ImageScores) -> NDArray[np.int32]:
        """See `worker.segmentation.heads.ThingHead`."""
        if self.strength == 0 or image.image is None:
            return np.zeros(image.embedding.size, dtype=np.int32)
        return self.numbers(propose(image.image, self.decoder, self.segmenter), image)

    @one_thread()
    @torch.no_grad()
    def read(self, found: DecodedProposals, image: ImageScores) -> ClassScores:
        """Score the labels of an image whose proposals are known.

        A trained label is read by its row, a name that came later by one of its own. What proposals give to trained
        labels that are not asked for is background. Labels without a row share, with the background, what no proposal
        covers, as their zero-shot scores have it. Where nothing is proposed, all scores are zero-shot.
        """
        if not len(found.proposals):
            return image.zero_shot
        classifier, rows = self._rows(image)
        shares = self._shares(found, classifier)
        shares = shares / shares.sum(dim=0)
        named = torch.tensor([row is not None for row in rows], device=shares.device)
        asked = [row for row in rows if row is not None]
        zero_shot = image.zero_shot.resized((shares.shape[1], shares.shape[2]))
        posterior = shares.new_zeros(len(rows) + 1, *shares.shape[1:])
        posterior[:-1][named] = shares[asked]
        left = set(range(len(shares))) - set(asked)  # no object among them
        rest = shares[sorted(left)].sum(dim=0)
        silent = ClassScores.of(zero_shot.logits, zero_shot.scored & ~F.pad(named, (0, 1)).to(zero_shot.scored.device))
        posterior = posterior + rest * silent.posterior().to(shares.device)
        place = image.zero_shot.logits.device
        scored = F.pad(named, (0, 1), value=True).to(place) | image.zero_shot.scored
        learned = ClassScores.of(share_logits(posterior).to(place), scored)
        if self.strength == 1:
            return learned
        return blend(zero_shot, learned, self.strength)

    @one_thread()
    @torch.no_grad()
    def numbers(self, found: DecodedProposals, image: ImageScores) -> NDArray[np.int32]:
        """Number the things of an image whose proposals are known, (H, W) int32 from 1; 0 where none is."""
        height, width = image.embedding.size
        if not len(found.proposals):
            return np.zeros((height, width), dtype=np.int32)
        scale = min(1.0, _NUMBERING_SIDE / max(height, width))
        size = (max(1, round(scale * height)), max(1, round(scale * width)))
        probabilities = self._rows(image)[0](found.proposals.vectors).softmax(dim=1)
        numbers = proposal_numbers(found.proposals.at_pixels(size), probabilities).cpu().numpy().astype(np.int16)
        resized = cv2.resize(numbers, (width, height), interpolation=cv2.INTER_NEAREST)
        return np.asarray(resized, dtype=np.int32)

    def taught(self, words: Words) -> Words:
        """See `worker.learning.interfaces.Adapter`."""
        return tuple(texts for texts in words if texts in self.seen) if self.strength else ()

    def at_strength(self, strength: float) -> Self:
        """See `worker.learning.interfaces.Adapter`."""
        return replace(self, strength=strength)

    def state(self) -> AdapterState:
        """See `worker.learning.interfaces.Adapter`. Rows of names that came later are not part of it."""
        tensors = {DECODER + name: values.detach().cpu() for name, values in self.decoder.state_dict().items()}
        made: Mapping[str, Any] | None = None
        if self.trained is not None:
            generator, made = to_state(self.trained)
            tensors |= {GENERATOR + name: values for name, values in generator.items()}
        else:
            tensors |= {CLASSIFIER + name: one.detach().cpu() for name, one in self.classifier.state_dict().items()}
        about: dict[str, Any] = {
            "form": self.form, "decoder": asdict(self.decoder.config), "tower": self.decoder.tower.fingerprint,
            "labels": list(self.decoder.labels), "seen": [list(texts) for texts in self.seen],
            "unseen": [list(texts) for texts in self.unseen], "generator": made, "strength": self.strength,
        }  # fmt: skip
        return AdapterState(self.recipe, tensors, about)

    def _shares(self, found: DecodedProposals, classifier: nn.Linear) -> Tensor:
        return label_shares(found.proposals.masks, classifier(found.proposals.vectors).softmax(dim=1))

    def _rows(self, image: ImageScores) -> tuple[nn.Linear, list[int | None]]:
        """The classifier with a row for each name that came later, before that of no object; and the row of each label
        of an image, None where it has none: of names that came later, the first 64 have one."""
        rows: list[int | None] = []
        extra: list[tuple[Tensor, Tensor]] = []
        asked = 0
        for place, texts in enumerate(image.words):
            row: _Row | None = _known_row(texts, (*self.seen, *self.unseen))
            if row is None and asked < _MOST_LATER and bool(image.classes.has_text[place]):
                asked += 1
                row = self.later.row(texts, image.classes.vectors[place])
            if isinstance(row, tuple):
                extra.append(row)
                row = self.classifier.out_features - 2 + len(extra)
            rows.append(row)
        return _with_rows(self.classifier, extra), rows


def _known_row(texts: Sequence[str], known: Words) -> int | None:
    """The first label that has one of these texts: a synonym more changes nothing."""
    return next((row for row, name in enumerate(known) if not set(name).isdisjoint(texts)), None)


def _with_rows(classifier: nn.Linear, extra: Sequence[tuple[Tensor, Tensor]]) -> nn.Linear:
    """A classifier with further rows, (D,) weights and () biases, before the last one."""
    if not extra:
        return classifier
    weights, biases = classifier.weight.detach(), classifier.bias.detach()
    joined = nn.Linear(classifier.in_features, len(weights) + len(extra), device=weights.device)
    weight = torch.cat([weights[:-1], torch.stack([one for one, _ in extra]), weights[-1:]])
    bias = torch.cat([biases[:-1], torch.stack([one for _, one in extra]), biases[-1:]])
    joined.load_state_dict({"weight": weight, "bias": bias})
    return joined


def check_decoder(decoder: QueryDecoder, seen: Words) -> None:
    """Check that a decoder was trained with these labels in this order: rows of its vectors are theirs.

    Raises:
        LearningError: it was not.
    """
    names = tuple(texts[0] for texts in seen)
    if decoder.labels != names:
        other = next((name for name in names if name not in decoder.labels), "the order of the labels")
        problem = f"was trained with other labels ({other!r} is new to it)"
        raise LearningError("query decoder", problem, "Give the --data that it was trained on, or train another.")

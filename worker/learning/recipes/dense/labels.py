"""Label vectors of the classes that a network is trained with: those of texts are constants, and a label whose words
the model cannot read gets a learned one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.learning.interfaces import Words
from worker.segmentation.encoders.towers import for_autograd
from worker.segmentation.heads import ImageScores
from worker.segmentation.text.encoder import BACKGROUND

BACKGROUND_TEXTS = (BACKGROUND,)
"""What the background is called among learned vectors and text vectors."""


_LEAST_SPREAD = 1e-3


class LabelVectors(nn.Module):
    """Holds the label vectors of a training, the background last.

    Args:
        words: the texts of each of T - 1 classes.
        vectors: (T, D) float32; rows that are not readable mean nothing.
        readable: (T,) bool.
    """

    def __init__(self, words: Words, vectors: Tensor, readable: Tensor) -> None:
        super().__init__()
        if not len(vectors) == len(readable) == len(words) + 1:
            raise ValueError(f"{len(words)} classes and a background, but {len(vectors)} vectors")
        self.words = words
        self.texts: Tensor
        self.register_buffer("texts", F.normalize(for_autograd(vectors.float()), dim=1), persistent=False)
        self.unread = [row for row, known in enumerate(readable.tolist()) if not known]
        # Until `start`: any direction. Where a text cannot be read, its embedding is none that a class is known by.
        anywhere = torch.randn(len(self.unread), vectors.shape[1], generator=torch.Generator().manual_seed(0))
        self.learned = nn.Parameter(F.normalize(anywhere, dim=1))

    def forward(self) -> Tensor:
        """(T, D) float32 of unit length."""
        if not self.unread:
            return self.texts
        rows = torch.tensor(self.unread, device=self.texts.device)
        return self.texts.index_copy(0, rows, F.normalize(self.learned, dim=1))

    @torch.no_grad()
    def start(self, means: Tensor) -> None:
        """Start the learned vectors at (T, D) mean features of the classes' cells; a mean of 0 changes nothing.

        Features of images are nearer to each other than to any text (the modality gap: Liang et al., NeurIPS 2022), so
        a mean as it is would win everywhere. Beside texts, means are moved to where these are: around their centre, and
        as far from it on average.
        """
        shown = means.any(dim=1).nonzero()[:, 0]
        read = [row for row in range(len(self.texts)) if row not in self.unread]
        if len(shown) > 1 and len(read) > 1:
            centre, texts = means[shown].mean(dim=0), self.texts[read]
            spread, wanted = (_spread(rows) for rows in (means[shown], texts))
            means = texts.mean(dim=0) + (means - centre) * wanted / spread.clamp_min(_LEAST_SPREAD)
        for place, row in enumerate(self.unread):
            if row in shown:
                self.learned[place] = F.normalize(means[row], dim=0)

    def vectors_learned(self) -> dict[tuple[str, ...], Tensor]:
        """(D,) learned vectors by the texts of their classes."""
        names = [*self.words, BACKGROUND_TEXTS]
        found = F.normalize(self.learned.detach(), dim=1)
        return {names[row]: found[place].clone() for place, row in enumerate(self.unread)}


def _spread(rows: Tensor) -> Tensor:
    """Mean distance of rows from their centre."""
    return torch.as_tensor((rows - rows.mean(dim=0)).norm(dim=1).mean())


@dataclass(frozen=True)
class TextVectors:
    """Vectors by text that take the place of the loaded model's text tower, for studies with another one.

    Attributes:
        by_text: (D,) float32 by text; "background" for the background, where it has one.
    """

    by_text: Mapping[str, Tensor]

    def of(self, words: Sequence[tuple[str, ...]]) -> tuple[Tensor, Tensor]:
        """(T, D) vectors of classes and, last, of the background, and (T,) which are known: the mean of known texts."""
        width = len(next(iter(self.by_text.values())))
        rows, known = [], []
        for texts in (*words, BACKGROUND_TEXTS):
            found = [F.normalize(self.by_text[text].float(), dim=0) for text in texts if text in self.by_text]
            rows.append(torch.stack(found).mean(dim=0) if found else torch.zeros(width))
            known.append(bool(found))
        return F.normalize(torch.stack(rows), dim=1), torch.tensor(known)


def label_rows(
    image: ImageScores, learned: Mapping[tuple[str, ...], Tensor], texts: TextVectors | None = None
) -> tuple[Tensor, Tensor]:
    """Find the label vectors of an image's classes.

    Args:
        image: whose n + 1 classes.
        learned: (D,) learned vectors by the texts of their classes; they go before what the texts say.
        texts: in place of the model's text tower.

    Returns:
        (n + 1, D) float32, the background last, and (n + 1,) bool: which have one. The others stay silent.
    """
    if texts is None:
        vectors, known = image.classes.vectors.clone(), image.classes.has_text.clone()
    else:
        vectors, known = texts.of(image.words)
        vectors, known = vectors.to(image.classes.vectors.device), known.to(image.classes.vectors.device)
    for row, name in enumerate((*image.words, BACKGROUND_TEXTS)):
        vector = learned.get(name)
        if vector is not None:
            vectors[row], known[row] = vector.to(vectors), True
    return vectors, known

"""Label words -> embeddings: prompt templates, several texts per label, the background with its negatives, a cache.

It must not know about images.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.segmentation.encoders.acceleration import one_thread
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.recent import Recent
from worker.segmentation.text.negatives import NEGATIVE_WORDS, free_negatives, named_by
from worker.segmentation.text.store import TextStore

# Averaging over phrasings steadies an embedding (Radford et al. 2021, section 3.1.4); a handful is most of the gain.
TEMPLATES = ("{}", "a photo of a {}.", "a photo of the {}.", "a photo of many {}.", "there is a {} in the scene.")
_PHRASING = frozenset(" ".join(TEMPLATES).replace(".", "").split())  # every model has read these, and they say nothing
BACKGROUND = "background"
_CACHE_LIMIT = 20_000  # texts: 40 MB at 512 numbers each
_CLASSES_BYTES = 40_000_000  # of whole vocabularies, put together
_AT_A_TIME = 8  # texts encoded before others have their turn: some 50 ms

Words = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class TextClasses:
    """The classes an image is compared with.

    Attributes:
        embeddings: (n, D) float32, unit length, one per text.
        owner: (n,) int64: the class each text speaks for.
        count: number of classes.
        speechless: classes none of whose texts the model has read a word of.
    """

    embeddings: Tensor
    owner: Tensor
    count: int
    speechless: tuple[int, ...] = ()


class _Turns:
    """A lock that goes to whoever has waited longest: thousands of labels are read a few at a time between others'."""

    def __init__(self) -> None:
        self._next, self._serving = itertools.count(), 0
        self._moved = threading.Condition()

    @contextmanager
    def mine(self) -> Iterator[None]:
        """Wait for a turn, which lasts until the `with` block ends."""
        with self._moved:
            ticket = next(self._next)
            self._moved.wait_for(lambda: self._serving == ticket)
        try:
            yield
        finally:
            with self._moved:
                self._serving += 1
                self._moved.notify_all()


class TextEncoder:
    """Holds the embeddings of every text seen, so that a label costs one encoding in its life. Safe to share between
    threads: who has thousands of new texts lets others read theirs in between.

    Args:
        encoder: the model.
        templates: phrasings, each with one `{}`; a text's embedding is their mean.
        store: keeps embeddings beyond this process; None = they die with it.
        negatives: words for the background; see `with_background`.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        templates: Sequence[str] = TEMPLATES,
        store: TextStore | None = None,
        negatives: Sequence[str] = NEGATIVE_WORDS,
    ) -> None:
        self._encoder = encoder
        self._templates = tuple(templates)
        self._store = store
        self._store_key = ""
        self._cache: dict[str, Tensor] = {}
        self._words = tuple(negatives)
        self._turns = _Turns()
        self._classes: Recent[TextClasses] = Recent(_CLASSES_BYTES)
        self._being_read: set[str] = set()
        self._read = threading.Condition()

    def with_background(self, words: Sequence[Sequence[str]]) -> TextClasses:
        """Embed the classes of a vocabulary and, as the last class, the background.

        The background also speaks by the negative words that mean no label: not the last word of any of its texts, and
        not close to it by embedding. A model trained with a sigmoid loss says of each label by itself whether it is
        there, so it needs no negatives and gets none.

        A label's embeddings depend on its own texts only; those of the background depend on all labels, through the
        choice of the negatives.

        Args:
            words: the texts of each class.
        """
        key = hashlib.sha256(repr(words).encode()).hexdigest()
        with self._read:  # one reads a vocabulary, whoever else wants it waits
            self._read.wait_for(lambda: key not in self._being_read)
            kept = self._classes.get(key)
            if kept is not None:
                return kept
            self._being_read.add(key)
        try:
            found = self.classes([*words, (BACKGROUND, *self._negatives(words))])
            with self._read:
                self._classes.keep(key, found, found.embeddings.numel() * found.embeddings.element_size())
            return found
        finally:
            with self._read:
                self._being_read.discard(key)
                self._read.notify_all()

    def classes(self, texts_by_class: Sequence[Sequence[str]]) -> TextClasses:
        """Embed the texts of each class; a class scores as the best of its texts.

        Texts with words that the model has never read are left out where a class has others.
        """
        told = [self._readable(texts) for texts in texts_by_class]
        owner = [index for index, texts in enumerate(told) for _ in texts]
        embeddings = self._embed([text for texts in told for text in texts])
        silent = tuple(index for index, texts in enumerate(texts_by_class) if self.speechless(texts))
        return TextClasses(embeddings, torch.tensor(owner, device=embeddings.device), len(told), silent)

    def readable(self, text: str) -> bool:
        """Whether the model has read every word of a text."""
        return not self._encoder.unknown_words(text)

    def speechless(self, texts: Sequence[str]) -> bool:
        """Whether the model has read no word of any of these texts: whatever it says of them is chance."""
        return not any(self._encoder.reads_some(text, apart_from=_PHRASING) for text in texts)

    def _readable(self, texts: Sequence[str]) -> Sequence[str]:
        return [text for text in texts if self.readable(text)] or texts

    def _negatives(self, words: Sequence[Sequence[str]]) -> list[str]:
        if self._encoder.logit_bias is not None:
            return []
        texts = [text for texts in words for text in self._readable(texts)]
        named = frozenset().union(*map(named_by, texts))
        candidates = [word for word in self._words if self.readable(word)]
        if not candidates:
            return []
        # All candidates are looked at, so that what they have in common does not depend on the labels.
        free = free_negatives(self._embed(candidates), self._embed(texts)).tolist()
        return [word for word, is_free in zip(candidates, free, strict=True) if is_free and not named_by(word) & named]

    def _embed(self, texts: Sequence[str]) -> Tensor:
        """(n, D) float32 of unit length; what was not met before is encoded now."""
        with self._turns.mine():
            found = self._at_hand(texts)
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        made: dict[str, Tensor] = {}
        for start in range(0, len(missing), _AT_A_TIME):
            with self._turns.mine():
                made.update(self._encode(missing[start : start + _AT_A_TIME]))
        if made and self._store is not None:
            with self._turns.mine():
                self._store.save(self._store_key, made)
        found |= made
        return torch.stack([found[text] for text in texts])

    def _at_hand(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Those met before, in this process or an earlier one."""
        if self._store is not None and not self._store_key and any(text not in self._cache for text in texts):
            told = json.dumps([self._encoder.text_fingerprint(), self._templates])
            self._store_key = hashlib.sha256(told.encode()).hexdigest()[:32]
            stored = self._store.load(self._store_key)
            self._cache.update({text: row.to(self._encoder.device) for text, row in stored.items()})
        return {text: self._cache[text] for text in texts if text in self._cache}

    def _encode(self, texts: Sequence[str]) -> dict[str, Tensor]:
        found = {}
        with one_thread():  # a second thread gains nothing here, and waits for others where the cores are busy
            for text in texts:  # one by one: an embedding is the same to the last bit in whatever company it came
                if text in self._cache:  # another vocabulary has it, too
                    continue
                rows = self._encoder.embed_texts([template.format(text) for template in self._templates])
                found[text] = F.normalize(rows.mean(dim=0), dim=0)
        self._cache.update(found)
        asked = {text: self._cache[text] for text in texts}
        if len(self._cache) > _CACHE_LIMIT:
            self._cache = dict(list(self._cache.items())[-_CACHE_LIMIT // 2 :])
        return asked

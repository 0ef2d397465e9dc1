"""Label words -> embeddings: prompt templates, several texts per class, the background with its negatives, caches."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter

import torch
import torch.nn.functional as F
from cachetools import LRUCache, cachedmethod
from torch import Tensor

from worker.segmentation.encoders.acceleration import one_thread
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.text.negatives import NEGATIVE_WORDS, head_words, unrelated_negatives
from worker.segmentation.text.store import TextStore

# Averaging over templates steadies an embedding (Radford et al. 2021, section 3.1.4); a handful is most of the gain.
TEMPLATES = ("{}", "a photo of a {}.", "a photo of the {}.", "a photo of many {}.", "there is a {} in the scene.")
_TEMPLATE_WORDS = frozenset(" ".join(TEMPLATES).replace(".", "").split())  # known to every model, and without meaning
BACKGROUND = "background"
_CACHED_TEXTS = 20_000  # 40 MB at 512 numbers each
_VOCABULARY_CACHE_BYTES = 40_000_000
_BATCH = 8  # texts encoded before the lock is passed on: some 50 ms


@dataclass(frozen=True)
class TextClasses:
    """The classes of a vocabulary, C of them, with n texts in all.

    Attributes:
        embeddings: (n, D) float32, unit length, one per text.
        owner: (n,) int64, the class of each text.
        has_text: (C,) bool: whether the model knows any word of the class's texts. Where it does not, the embeddings
            are meaningless.
    """

    embeddings: Tensor
    owner: Tensor
    has_text: Tensor

    @property
    def count(self) -> int:
        """Number of classes, C."""
        return len(self.has_text)

    @cached_property
    def vectors(self) -> Tensor:
        """(C, D) float32 of unit length: one label vector per class, for networks that take one.

        That of a label is the mean of its texts. That of the background, the last class, is its first text alone: the
        mean of dozens of unrelated negative words means nothing. Meaningless where `has_text` is false.
        """
        of_background = self.owner == self.count - 1
        kept = ~of_background | (of_background.cumsum(dim=0) == 1)
        sums = self.embeddings.new_zeros(self.count, self.embeddings.shape[1])
        return F.normalize(sums.index_add(0, self.owner[kept], self.embeddings[kept]), dim=-1)


class _FairLock:
    """A lock that threads get in the order in which they asked for it.

    A thread with thousands of texts releases it after each batch; a plain lock would mostly go back to that thread.
    """

    def __init__(self) -> None:
        self._next_ticket, self._serving = itertools.count(), 0
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        with self._changed:
            ticket = next(self._next_ticket)
            self._changed.wait_for(lambda: self._serving == ticket)

    def __exit__(self, *_exception: object) -> None:
        with self._changed:
            self._serving += 1
            self._changed.notify_all()


class TextEncoder:
    """Holds the embeddings of recent texts, so that each is encoded once. Safe to share between threads: one that
    encodes thousands of texts lets the others encode theirs in between.

    Args:
        encoder: the model.
        templates: prompts, each with one `{}`; the embedding of a text is their mean.
        store: keeps embeddings on disk; None = in memory alone.
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
        self._negative_words = tuple(negatives)
        self._lock = _FairLock()  # of the model, the texts and the store
        self._texts: LRUCache[str, Tensor] = LRUCache(_CACHED_TEXTS)
        self._vocabularies: LRUCache[object, TextClasses] = LRUCache(_VOCABULARY_CACHE_BYTES, getsizeof=_bytes)
        self._vocabularies_condition = threading.Condition()

    def with_background(self, words: Sequence[Sequence[str]], negatives: Sequence[str] = ()) -> TextClasses:
        """Embed the classes of a vocabulary and, as the last class, the background.

        The background also has the negative words as texts, except those that a label means: the last word of one of
        its texts, or a word close to one by embedding. A model trained with a sigmoid loss rates every label by itself,
        so it needs no negatives and gets none.

        A label's embeddings depend on its own texts alone; those of the background depend on all labels, through the
        choice of the negatives.

        Args:
            words: the texts of each class.
            negatives: further texts of the background, whatever is close to them; those that are texts of a class are
                passed over.
        """
        return self._with_background(tuple(tuple(texts) for texts in words), tuple(negatives))

    # With a condition, a second thread that asks for a vocabulary waits for the first one to embed it.
    @cachedmethod(attrgetter("_vocabularies"), condition=attrgetter("_vocabularies_condition"))
    def _with_background(self, words: tuple[tuple[str, ...], ...], negatives: tuple[str, ...]) -> TextClasses:
        taken = {text.lower() for texts in words for text in texts}
        given = [word for word in negatives if word.lower() not in taken and self.knows_all_words(word)]
        # All are kept: the model may not know the first text, and the others were chosen because it knows them.
        background = tuple(dict.fromkeys([BACKGROUND, *self._negatives(words), *given]))
        return self._classes([*words, background], [*map(self._known_texts, words), background])

    def classes(self, texts_by_class: Sequence[Sequence[str]]) -> TextClasses:
        """Embed the texts of each class; the score of a class is that of its best text.

        Texts with unknown words are left out where a class has others.
        """
        return self._classes(texts_by_class, [self._known_texts(texts) for texts in texts_by_class])

    def _classes(self, texts_by_class: Sequence[Sequence[str]], kept: Sequence[Sequence[str]]) -> TextClasses:
        """`kept`: the texts of each class that are embedded."""
        owner = [index for index, texts in enumerate(kept) for _ in texts]
        embeddings = self._embed([text for texts in kept for text in texts])
        has_text = [self.has_known_words(texts) for texts in texts_by_class]
        device = embeddings.device
        return TextClasses(embeddings, torch.tensor(owner, device=device), torch.tensor(has_text, device=device))

    def knows_all_words(self, text: str) -> bool:
        """Whether the model was trained on every word of a text."""
        return not self._encoder.unknown_words(text)

    def has_known_words(self, texts: Sequence[str]) -> bool:
        """Whether the model was trained on any word of these texts, those of the templates aside."""
        return any(self._encoder.has_known_words(text, ignoring=_TEMPLATE_WORDS) for text in texts)

    def _known_texts(self, texts: Sequence[str]) -> Sequence[str]:
        return [text for text in texts if self.knows_all_words(text)] or texts

    def _negatives(self, words: Sequence[Sequence[str]]) -> list[str]:
        """Choose the negatives that no label of a vocabulary means."""
        if self._encoder.logit_bias is not None:
            return []
        texts = [text for texts in words for text in self._known_texts(texts)]
        taken = frozenset().union(*map(head_words, texts))
        candidates = [word for word in self._negative_words if self.knows_all_words(word)]
        if not candidates:
            return []
        # All candidates are embedded, so that their mean does not depend on the labels.
        vectors = self._embed(candidates)
        unrelated = unrelated_negatives(vectors, self._embed(texts) if texts else vectors[:0]).tolist()
        return [word for word, free in zip(candidates, unrelated, strict=True) if free and not head_words(word) & taken]

    def _embed(self, texts: Sequence[str]) -> Tensor:
        """(n, D) float32 of unit length of one text or more, from the caches or encoded now."""
        with self._lock:
            found = self._cached(texts)
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        encoded: dict[str, Tensor] = {}
        for start in range(0, len(missing), _BATCH):
            with self._lock:
                encoded.update(self._encode(missing[start : start + _BATCH]))
        if encoded and self._store is not None:
            with self._lock:
                self._store.save(self._store_key, encoded)
        found |= encoded
        return torch.stack([found[text] for text in texts])

    def _cached(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return the embeddings of those texts that are in memory; before the first miss, the store is loaded."""
        if self._store is not None and not self._store_key and any(text not in self._texts for text in texts):
            identity = json.dumps([self._encoder.text_fingerprint(), self._templates])
            self._store_key = hashlib.sha256(identity.encode()).hexdigest()[:32]
            stored = self._store.load(self._store_key)
            self._texts.update({text: row.to(self._encoder.device) for text, row in stored.items()})
        return {text: self._texts[text] for text in texts if text in self._texts}

    def _encode(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Encode the texts of one batch, except those that another thread has encoded meanwhile."""
        with one_thread():  # a second thread gains nothing here, and has to wait where the cores are busy
            for text in texts:  # one by one, so that an embedding has the same bits in every batch
                if text not in self._texts:
                    rows = self._encoder.embed_texts([template.format(text) for template in self._templates])
                    self._texts[text] = F.normalize(rows.mean(dim=0), dim=0)
            return {text: self._texts[text] for text in texts}


def _bytes(classes: TextClasses) -> int:
    return classes.embeddings.numel() * classes.embeddings.element_size()

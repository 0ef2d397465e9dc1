"""The recipe the service runs: seconds on a CPU, from the first corrected picture on, labels without one kept.

Learning starts from what the model says of the labels' words, as far as it proved right on the corrections (after LP++,
Huang et al., and CLAP, Silva-Rodriguez et al., both CVPR 2024), and adds what the pictures look like: small networks on
what the encoder and a network trained on photographs see, on colour, texture and place; and retrieval of alike cells. A
label that nobody has drawn keeps the model's words: where learning says "none of the drawn ones", the model says which
of the others. It must not know Label Studio or files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from plugin_config.errors import LearningError
from worker.learning.interfaces import UNLABELLED, AdapterState, Example, Words
from worker.learning.recipes.quick.augmentation import View
from worker.learning.recipes.quick.classifier import Classifier, Look, Options, learn
from worker.learning.recipes.quick.features import ENCODER_AXES, TOWER_AXES, Sight, agreement, found_again
from worker.learning.recipes.quick.pca import Axes
from worker.segmentation.encoders.acceleration import one_thread
from worker.segmentation.heads import Scene
from worker.segmentation.metrics import VOID
from worker.segmentation.outlines.evidence import spoken
from worker.segmentation.segmenter import Segmenter

NAME = "quick"
PARTS = ("encoder", "tower", "appearance", "retrieval")
_VIEWS = 32  # pictures and other views of them that are learned from, where there are not as many pictures
_MANY, _MORE = 12, 2  # photographs from which there is more to learn, and how many times the views and the hidden units
_MOST_EXAMPLES = 60
_MOST_PATIENCE = 2.0  # how many times as long many photographs are learned from, at most
_LEAST = 1e-9  # posterior
_FORM = 4  # of what a stored adapter sees of a picture
_ENCODER, _TOWER = "encoder", "tower"  # of tensors' names
_AGAIN = "Learn it again."
_ANOTHER = "Serve another version with `zeromask rollback`; other corrections make a new one."
_REMEDY = "Draw a label in at least one picture and accept it."


@dataclass(frozen=True)
class QuickAdapter:
    """What `QuickRecipe` learned; its logits come on a grid of 128 cells along the long side.

    Without the image there is nothing to learn from, and a scene keeps its own logits.
    """

    sight: Sight
    classifier: Classifier
    strength: float = 1.0
    encoder_part: str = ""

    @one_thread()
    def logits(self, scene: Scene) -> Tensor:
        """(n + 1, h', w') float32; see `worker.segmentation.heads.Head`."""
        if self.strength == 0 or scene.image is None:
            return scene.logits
        seen = self.sight.seen(scene, scene.image)
        said = seen.said
        learned = self.classifier.logits(self.sight.picture(seen, View.whole(seen.patches))).reshape(-1, *seen.grid)
        whole = _with_untaught(said, self.sight.rows(scene.words), self.sight.trust, learned.to(said.device))
        if self.strength == 1:
            return whole
        rows = zip(self.sight.rows(scene.words), self.sight.untold.tolist(), strict=False)
        return _part_of_the_way(said, whole, self.strength, [k for k, untold in rows if untold and k is not None])

    def taught(self, words: Words) -> Words:
        """See `worker.learning.interfaces.Adapter`."""
        return tuple(words[k] for k in self.sight.rows(words) if k is not None) if self.strength else ()

    def at_strength(self, strength: float) -> QuickAdapter:
        """See `worker.learning.interfaces.Adapter`."""
        return replace(self, strength=strength)

    def state(self) -> AdapterState:
        """See `worker.learning.interfaces.Adapter`."""
        sight = self.sight
        tensors = {"known": sight.known, **self.classifier.tensors()}
        axes = {f"{_TOWER}{k}": some for k, some in enumerate(sight.tower)}
        if sight.features is not None:
            axes[_ENCODER] = sight.features
        for name, some in axes.items():
            tensors |= {f"{name}.middle": some.middle, f"{name}.directions": some.directions}
        about = {"words": [list(texts) for texts in sight.words], "trust": sight.trust, "scale": sight.scale,
                 "axes": sorted(axes), "appearance": sight.appearance, "retrieval": self.classifier.retrieval,
                 "learned_strength": self.classifier.strength, "strength": self.strength, "form": _FORM}  # fmt: skip
        return AdapterState(NAME, tensors, about)


@dataclass(frozen=True)
class QuickRecipe:
    """See the module.

    Attributes:
        without: which of `PARTS` are left out, for ablations.
        options: of the classifier.
        views: pictures and other views of them that are learned from, where there are not as many pictures.
        seed: of all chance in it.
    """

    without: tuple[str, ...] = ()
    options: Options = field(default_factory=Options)
    views: int = _VIEWS
    seed: int = 0
    name: ClassVar[str] = NAME
    form: ClassVar[int] = _FORM

    @one_thread()
    def fit(self, examples: Sequence[Example], words: Words, segmenter: Segmenter) -> QuickAdapter:
        """See `worker.learning.interfaces.Recipe`."""
        shown, taught = _drawn(examples, words)
        known = [float(not all(segmenter.encoder.unknown_words(text) for text in texts)) for texts in taught]
        scenes = [segmenter.look(example.embedding, words) for example in shown]  # images may be smaller than embedded
        features, tower = self._axes(scenes, shown)
        appearance = "appearance" not in self.without
        sight = Sight(taught, torch.tensor(known), features, tower, 0.0, 0.0, appearance)
        trust, scale = agreement(sight, scenes, shown)
        sight = replace(sight, trust=trust, scale=scale)
        training = self.options.training
        steps = round(training.steps * min(_MOST_PATIENCE, max(1.0, len(shown) / _MANY)))
        hidden = training.hidden * (_MORE if len(shown) >= _MANY else 1)
        options = replace(self.options, seed=self.seed, training=replace(training, steps=steps, hidden=hidden))
        if "retrieval" in self.without:
            options = replace(options, retrieval=0.0)
        seen = self._views(sight, scenes, shown)
        classifier, pays = learn(
            seen, self._pictures(len(shown)), options, photographs=len(shown), wary=sight.scale > 0,
            untold=sight.untold, blinded=sight.blinded, doubted=sight.doubted,
        )  # fmt: skip
        return QuickAdapter(sight if pays else replace(sight, tower=()), classifier)

    def load(self, state: AdapterState) -> QuickAdapter:
        """See `worker.learning.interfaces.Recipe`."""
        if state.recipe != self.name:
            problem = f"was made by recipe {state.recipe!r}, not {self.name!r}"
            raise LearningError("adapter", problem, "Load it with that one.")
        about: Any = state.about
        tensors = state.tensors
        if about.get("form") != _FORM:
            raise LearningError("adapter", "was learned by another release, which saw pictures otherwise", _ANOTHER)
        try:
            words = tuple(tuple(str(text) for text in texts) for texts in about["words"])
            axes = {name: Axes.of_state(tensors, name) for name in about["axes"]}
            tower = tuple(some for name, some in axes.items() if name != _ENCODER)
            sight = Sight(words, tensors["known"], axes.get(_ENCODER), tower, float(about["trust"]),
                          float(about["scale"]), bool(about["appearance"]))  # fmt: skip
            retrieval, strength = float(about["retrieval"]), float(about["learned_strength"])
            if sight.known.shape != (len(words),) or not all(map(math.isfinite, (sight.trust, sight.scale))):
                raise ValueError("known words, trust or scale")
            if not all(0 <= part <= 1 for part in (retrieval, strength, float(about["strength"]))):
                raise ValueError("a strength")
            classifier = Classifier.of(tensors, retrieval, strength, sight.untold)
            return QuickAdapter(sight, classifier, float(about["strength"]))
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise LearningError("adapter", f"its state is incomplete ({error!r})", _AGAIN) from error

    def _axes(self, scenes: Sequence[Scene], examples: Sequence[Example]) -> tuple[Axes | None, tuple[Axes, ...]]:
        """Axes of the encoder's features, and of each map of the photograph tower; none of what is left out."""
        features, tower = None, []
        if "encoder" not in self.without:
            features = Axes.of([scene.features for scene in scenes], ENCODER_AXES)
        if "tower" not in self.without:
            looks = [scene.look_again(example.image) for scene, example in zip(scenes, examples, strict=True)]
            tower = [Axes.of(maps, most) for maps, most in zip(zip(*looks, strict=True), TOWER_AXES, strict=True)]
        return features, tuple(tower)

    def _pictures(self, examples: int) -> int:
        return max(self.views * _MORE, 2 * examples) if examples >= _MANY else max(self.views, examples)

    def _views(
        self, sight: Sight, scenes: Sequence[Scene], examples: Sequence[Example]
    ) -> Iterator[tuple[Tensor, Look]]:
        """Every example as it is, then views of them in turn."""
        rng = np.random.default_rng(self.seed)
        seen = [sight.seen(scene, example.image) for scene, example in zip(scenes, examples, strict=True)]
        for number in range(self._pictures(len(examples))):
            turn = number % len(examples)
            patches = seen[turn].patches
            view = View.whole(patches) if number < len(examples) else View.drawn(patches, rng)
            yield sight.shares(examples[turn], view, patches), partial(sight.picture, seen[turn], view)


def _drawn(examples: Sequence[Example], words: Words) -> tuple[list[Example], Words]:
    """The examples to learn from, at most 60, those with the rarest labels first, and the words drawn in them.

    Raises:
        LearningError: no label is drawn in any.
    """
    found = []
    for example in examples:
        shown = set(np.unique(example.truth).tolist()) - {VOID, UNLABELLED}
        found.append({k for k, place in enumerate(found_again(words, example.words)) if place in shown})
    often = [sum(k in some for some in found) for k in range(len(words))]
    if not any(often):
        raise LearningError("corrections", "no label of the project is drawn in any of them", _REMEDY)
    rarest = [min((often[k] for k in some), default=len(examples)) for some in found]
    kept = sorted(sorted(range(len(examples)), key=lambda k: rarest[k])[:_MOST_EXAMPLES])
    return [examples[k] for k in kept], tuple(texts for texts, times in zip(words, often, strict=True) if times)


def _part_of_the_way(said: Tensor, whole: Tensor, strength: float, untold: Sequence[int]) -> Tensor:
    """From zero-shot logits (n + 1, h, w) to learned ones, among the classes of which both say something.

    There is no way from saying nothing of a label: it keeps the posterior that was learned, whatever the strength.

    Args:
        said: zero-shot logits; a class of which nothing is said is -inf in every cell.
        whole: what was learned.
        strength: how much of the way, in (0, 1).
        untold: rows of taught classes of which the model is not to be asked, though it may know some of their words.
    """
    silent = ~spoken(said)
    silent[list(untold)] = True
    learned = whole.softmax(dim=0)
    told = (1 - learned[silent].sum(dim=0)).clamp_min(_LEAST)
    between = whole.log_softmax(dim=0)
    between[~silent] = torch.lerp(said[~silent], whole[~silent], strength).log_softmax(dim=0) + told.log()
    return between


def _with_untaught(own: Tensor, rows: Sequence[int | None], trust: float, learned: Tensor) -> Tensor:
    """Log-posteriors (T + 1, h, w) of the taught classes and the rest -> logits of all the scene's classes.

    Inside the rest the scene's own logits decide. Of what learning gives to taught classes, untaught ones get what the
    model would give them, as far as the model is to be trusted; their rows keep their distances to each other.

    Args:
        own: (n + 1, h, w) zero-shot logits; the background, which is last, is never without.
        rows: where each taught class is in them; None = nowhere.
        trust: of the model, see `Sight`.
        learned: what was learned.
    """
    speaks = spoken(own).tolist()
    others = torch.tensor([k for k, says in enumerate(speaks) if k not in rows and says], device=own.device)
    gone = [k for k, row in enumerate(rows) if row is None]  # drawn once, but no label of the project any more
    posterior = learned.exp()
    rest = posterior[-1] + posterior[gone].sum(dim=0)
    drawn = 1 - rest
    claimed = trust * own.softmax(dim=0)[others[:-1]].sum(dim=0) * drawn  # by all untaught labels together
    inside = own[others].softmax(dim=0) * rest
    untaught = inside[:-1].sum(dim=0) + claimed
    level = own[others[:-1]].logsumexp(dim=0) - untaught.clamp_min(_LEAST).log() if len(others) > 1 else 0.0
    whole = torch.full_like(own, -torch.inf)
    whole[others[:-1]] = own[others[:-1]]
    whole[others[-1]] = inside[-1].clamp_min(_LEAST).log() + level
    kept = (1 - claimed / drawn.clamp_min(_LEAST)).clamp(0.0, 1.0)
    for row in {row for row in rows if row is not None}:
        mine = posterior[[k for k, other in enumerate(rows) if other == row]].sum(dim=0)  # several, if made one since
        whole[row] = (mine * kept).clamp_min(_LEAST).log() + level
    return whole

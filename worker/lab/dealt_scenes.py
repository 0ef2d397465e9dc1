"""Drawn scenes whose things are dealt like cards, so that each label is shown equally often."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import permutations
from typing import ClassVar, TypeVar, overload

import numpy as np

from worker.lab.drawn_world.scenes import Scene, draw_scene
from worker.lab.drawn_world.world import STUFF, Thing

SIZE = (144, 192)
"""(H, W) pixels of a scene."""

_THINGS_A_SCENE = 8
_GROUNDS = (*permutations(STUFF, 2), *((stuff,) for stuff in 3 * STUFF))  # one stuff as often as two
_DECK = 1_000_003  # a number that no scene has

Labelled = TypeVar("Labelled")
"""A scene with the truth of its labels."""


class DealtScenes(Sequence[Labelled]):
    """Scenes drawn when they are asked for; each is a function of the seed and its number alone.

    Args:
        count: how many scenes.
        seed: numbers that tell these scenes from others.
    """

    units: ClassVar[tuple[float, float]]
    """Smallest and largest unit that sizes of things are relative to, pixels."""

    def __init__(self, count: int, seed: tuple[int, ...]) -> None:
        self._count, self._seed = count, seed

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Labelled: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Labelled]: ...
    def __getitem__(self, index: int | slice) -> Labelled | Sequence[Labelled]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(self._count))]
        if not 0 <= index < self._count:
            raise IndexError(index)
        rng = np.random.default_rng((*self._seed, index))
        things = [self.thing(rng, index * _THINGS_A_SCENE + k) for k in range(_THINGS_A_SCENE)]
        ground = _GROUNDS[self.dealt(index, len(_GROUNDS))]
        return self.labelled(draw_scene(rng, SIZE, things, unit=float(rng.uniform(*self.units)), ground=ground))

    def dealt(self, position: int, cards: int) -> int:
        """The card, from 0, at a position of one deck after the other, each shuffled by the seed."""
        deck, place = divmod(position, cards)
        return int(np.random.default_rng((*self._seed, _DECK, cards, deck)).permutation(cards)[place])

    @abstractmethod
    def thing(self, rng: np.random.Generator, position: int) -> Thing:
        """The thing at a position of all things of all scenes: its label is dealt, the rest is drawn from `rng`."""

    @abstractmethod
    def labelled(self, scene: Scene) -> Labelled:
        """A drawn scene with the truth of its labels."""

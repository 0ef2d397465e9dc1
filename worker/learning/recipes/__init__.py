"""Ways to learn, with one signature: `fit(examples, words, segmenter) -> Adapter`. No recipe depends on the gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from plugin_config.errors import LearningError
from worker.learning.interfaces import Recipe
from worker.learning.recipes.dense.recipe import LSegRecipe, SazsRecipe
from worker.learning.recipes.dense.zegclip_recipe import ZegclipRecipe
from worker.learning.recipes.pading.recipe import PadingRecipe
from worker.learning.recipes.quick import recipe as quick

RECIPES: Mapping[str, Callable[..., Recipe]] = {
    quick.NAME: quick.QuickRecipe, LSegRecipe.name: LSegRecipe, SazsRecipe.name: SazsRecipe,
    ZegclipRecipe.name: ZegclipRecipe, PadingRecipe.name: PadingRecipe,
}  # fmt: skip


def recipe_named(name: str, *, without: Sequence[str] = ()) -> Recipe:
    """Find a recipe by its name; `without` are parts of it to leave out.

    Raises:
        LearningError: there is none.
    """
    if name not in RECIPES:
        raise LearningError(f"recipe {name!r}", "is not known", f"Choose one of {', '.join(RECIPES)}.")
    return RECIPES[name](without=tuple(without))

"""A vocabulary of a thousand labels: the same masks, in memory that does not grow by labels times pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from backend import model
from plugin_config.settings import Settings
from plugin_config.vocabulary import Vocabulary
from tests.models import noise
from worker.segmentation.class_scores import OTHERS, ClassScores
from worker.segmentation.instances import class_map
from worker.segmentation.instances.class_map import clean
from worker.segmentation.outlines.evidence import nearest_shares, read_evidence
from worker.segmentation.outlines.refinement import FINE, pixel_classes, refine_logits, refine_scores

pytestmark = pytest.mark.usefixtures("one_thread")


class LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        found = func(*args, **(kwargs or {}))
        for each in found if isinstance(found, tuple | list) else (found,):
            if isinstance(each, Tensor):
                self.numbers = max(self.numbers, each.numel())
        return found


def patches(classes: int, *, shown: int = 6, grid: tuple[int, int] = (24, 32), seed: int = 0) -> Tensor:
    """Logits in which a few classes share the patches, all others are noise, and the last is the background."""
    generator = torch.Generator().manual_seed(seed)
    logits = 0.6 * torch.randn(classes, *grid, generator=generator)
    columns = torch.arange(grid[1]) * shown // grid[1]
    for number in range(shown):
        place = number * (classes - 1) // (shown - 1)
        logits[place] += 6 * (columns == number)
    return logits


def slow_nearest(shares: Tensor) -> Tensor:
    """Sparsemax with all classes sorted."""
    falling = shares.sort(dim=0, descending=True).values
    above = falling.cumsum(dim=0) - 1
    rank = torch.arange(1, len(shares) + 1)[:, None, None]
    support = (falling * rank > above).sum(dim=0, keepdim=True)
    return (shares - above.gather(0, support - 1) / support).clamp_min(0.0)


@pytest.mark.parametrize("spread", [1.0, 0.1, 0.001], ids=["few", "dozens", "nearly all"])
def test_shares_among_many_classes_are_those_of_a_full_sort(spread: float) -> None:
    shares = 1 / 700 + spread * torch.randn(700, 5, 7, generator=torch.Generator().manual_seed(1))
    shares[:, 0, 0] = 1 / 700 + torch.randn(700, generator=torch.Generator().manual_seed(2))  # patches differ
    torch.testing.assert_close(nearest_shares(shares), slow_nearest(shares), atol=1e-6, rtol=0)


def test_evidence_gives_the_shares_it_has_computed() -> None:
    evidence = read_evidence(patches(300))
    assert evidence.valid is not None
    assert torch.equal(evidence.valid, nearest_shares(evidence.shares))
    assert torch.equal(evidence.of(torch.tensor([0, 7, 299])).valid_shares().sum(dim=0).round(), torch.ones(24, 32))


def test_up_to_sixty_four_classes_nothing_is_put_together() -> None:
    image, coarse = noise(60, 80), ClassScores.from_logits(patches(64))
    found = refine_scores(coarse, image)
    assert found.classes is None
    assert torch.equal(found.logits, refine_logits(coarse.logits, image))


def test_of_many_classes_those_that_may_win_keep_their_logits_and_the_others_their_share() -> None:
    image, coarse = noise(60, 80), ClassScores.from_logits(patches(500))
    whole = refine_logits(coarse.logits, image)
    found = refine_scores(coarse, image, keep=[17, 340])
    assert found.classes is not None
    assert found.classes[-2:] == (OTHERS, 499)
    assert {17, 340, *whole.argmax(dim=0).unique().tolist()} <= set(found.classes)  # type: ignore[no-untyped-call]
    assert len(found.logits) == len(found.classes) < 80
    own = [row for row, k in enumerate(found.classes) if k != OTHERS]
    kept = [k for k in found.classes if k != OTHERS]
    posterior = whole.softmax(dim=0)
    difference = (found.posterior()[own] - posterior[kept]).abs()
    assert float(difference.max()) < 0.05
    assert float(difference.mean()) < 0.002


def test_classes_without_a_score_are_left_out_unless_they_are_asked_for() -> None:
    scored = torch.zeros(500, dtype=torch.bool)
    scored[[3, 4, 499]] = True
    found = refine_scores(ClassScores.of(patches(500), scored), noise(60, 80), keep=[100])
    assert found.classes == (3, 4, 100, 499)
    assert found.scored.tolist() == [True, True, False, True]
    assert found.logits[2].isneginf().all()
    assert not found.logits.isnan().any()


@pytest.mark.parametrize("outlines", [True, False])
@pytest.mark.parametrize("grid", [(60, 80), (24, 32)], ids=["finer than patches", "as patches"])
def test_the_others_together_get_no_pixel(grid: tuple[int, int], outlines: bool) -> None:
    image = noise(60, 80)
    logits = patches(4, shown=4, grid=grid)
    logits[2] += 20  # the others together, before the background
    classes, confidence = pixel_classes(logits, (60, 80), image if outlines else None, method=FINE, without=2)
    assert set(np.unique(classes)) <= {0, 1, 3}
    assert np.isfinite(confidence).all()
    assert outlines or confidence.max() < 0.01, "they take their share"


def test_no_tensor_has_the_size_of_labels_times_pixels() -> None:
    """4 megapixels and 5,000 labels. The largest is that of the patches, or a strip of the rows."""
    size, coarse = (1732, 2309), patches(5001, grid=(24, 32))
    image = noise(*size)
    with LargestTensor() as noted:
        pixel_classes(coarse, size, image)
    assert noted.numbers <= max(coarse.numel(), 4_000_000)
    with LargestTensor() as noted:
        refine_scores(ClassScores.from_logits(coarse), noise(96, 128))
    assert noted.numbers <= max(coarse.numel(), 4_000_000)


def test_cleaning_each_class_in_its_part_is_cleaning_it_in_the_whole_image(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    classes = np.kron(rng.integers(0, 30, (12, 16)), np.ones((25, 25))).astype(np.int16)
    rows, columns = rng.integers(1, 299, 600), rng.integers(1, 399, 600)
    classes[rows, columns] = classes[rows - 1, columns - 1]
    found = clean(classes, min_area=20)
    monkeypatch.setattr(class_map, "_grown", lambda _crop, _margin, size: (slice(0, size[0]), slice(0, size[1])))
    assert np.array_equal(found, clean(classes, min_area=20))


@dataclass
class NoQueues:
    """Nothing is served."""

    def version(self, project: int, vocabulary: Vocabulary) -> str:
        return vocabulary.hash


def test_the_same_config_is_read_once() -> None:
    labels = "".join(f'<Label value="thing {k} of this test"/>' for k in range(1200))
    config = f'<View><Image name="i" value="$image"/><BrushLabels name="b" toName="i">{labels}</BrushLabels></View>'
    projects = model.Projects(Settings(model="builtin"), NoQueues())  # type: ignore[arg-type]
    before = model.parsed.cache_info()
    versions = {projects.model(project, config).model_version for project in (1, 2, 1)}
    after = model.parsed.cache_info()
    assert len(versions) == 1
    assert (after.misses - before.misses, after.hits - before.hits) == (1, 2)

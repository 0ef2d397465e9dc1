"""What the builtin model is trained to do: sigmoid losses between patches and texts.

Sigmoid pairs as in SigLIP (Zhai et al., ICCV 2023), applied to every patch, so that `logit_bias` becomes an absolute
threshold: a text that is true of nothing in a patch has a negative logit there. It must not know where batches come
from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.lab.drawn_world.lessons import MAX_THINGS, Lesson
from worker.lab.drawn_world.world import COLOURS, SHAPES, STUFF, TEXTURES, UNSEEN_COLOUR_SHAPES, UNSEEN_COLOUR_TEXTURES
from worker.segmentation.encoders.resnet import dilated_stages, last_stage, middle_stage, project

Clip = Any
"""An `open_clip.CLIP`; open_clip ships no types."""

HARD_NEGATIVE = 3.0
IMAGE_SHARE, PROBE_SHARE = 0.1, 0.3
# Colour, texture, shape, as the shipped run ended; before that they counted more, see docs/research/builtin.md.
KIND_WEIGHTS = (0.1, 0.5, 0.15)
SURE_SHARE = 0.6
_WORDS = (COLOURS, TEXTURES, SHAPES)
_TEXTURE = 1  # its place among the kinds
_KINDS = tuple(len(words) for words in _WORDS)
_HELD_OUT: tuple[frozenset[tuple[str, str]], ...] = (frozenset(), UNSEEN_COLOUR_TEXTURES, UNSEEN_COLOUR_SHAPES)


@dataclass(frozen=True)
class Truth:
    """Which (B, K, T) text is true of which thing or stuff, and how much that pair counts."""

    match: Tensor
    weight: Tensor


def encode_texts(model: Clip, tokens: Tensor) -> Tensor:
    """Unit text features (T, D) of tokens (T, L <= context length): nothing after the end mark can be seen anyway."""
    length = tokens.shape[1]
    states = model.token_embedding(tokens) + model.positional_embedding[:length]
    states = model.ln_final(model.transformer(states, attn_mask=model.attn_mask[:length, :length]))
    ends = states[torch.arange(tokens.shape[0]), tokens.argmax(dim=1)]  # (T, width)
    return F.normalize((ends @ model.text_projection).float(), dim=-1)


def dense_features(model: Clip, pixels: Tensor) -> Tensor:
    """Unit patch features (B, P, D) float32, read as the service reads them."""
    return patch_features(model, last_stage(model.visual, pixels))


def patch_features(model: Clip, places: Tensor) -> Tensor:
    """Unit patch features (B, P, D) of the last stage's (B, C, h, w)."""
    return F.normalize(project(model.visual, places).flatten(1, 2), dim=-1)


def picture_features(model: Clip, places: Tensor) -> Tensor:
    """Unit features (B, D) of whole native-size pictures, as `encode_image` pools them from every fourth place."""
    return F.normalize(model.visual.attnpool(places[..., 1::4, 1::4]), dim=-1)


def pair_truth(attributes: Tensor, present: Tensor, concepts: Tensor) -> Tensor:
    """(B, 8 + 4, T) bool: the text describes the thing (first 8) or the stuff (last 4)."""
    wanted = concepts[:, :3]
    fits = ((attributes[:, :, None] == wanted) | (wanted == -1)).all(dim=-1)  # (B, 8, T)
    things = fits & (concepts[:, 3] == -1) & present[..., None]
    ground = torch.arange(len(STUFF))[:, None]
    stuff = (concepts[:, 3] == ground) | (concepts[:, 3] == len(STUFF))  # (4, T)
    return torch.cat([things, stuff.expand(things.shape[0], -1, -1)], dim=1)


def truth_of(attributes: Tensor, present: Tensor, concepts: Tensor) -> Truth:
    """Weigh pairs: rare positives by the root of their rarity, negatives that share a word three times the others.

    Negatives that only a held-out pair makes false count nothing. Red things are never dotted in training, so "dotted"
    would be false of every red thing, and the model would learn "red, hence not dotted" from the hole itself: without
    this, single-word accuracy for textures on held-out pairs stayed below chance.
    """
    match = pair_truth(attributes, present, concepts)
    wanted = concepts[:, :3]
    rarity = torch.where(wanted >= 0, torch.tensor(_KINDS, dtype=torch.float32), torch.tensor(1.0)).prod(dim=1).sqrt()
    shares_word = ((attributes[:, :, None] == wanted) & (wanted >= 0)).any(dim=-1)  # (B, 8, T)
    things = torch.where(shares_word, HARD_NEGATIVE, 1.0)
    things = torch.where(_false_by_hole(attributes, concepts), 0.0, things)
    negative = torch.cat([things, torch.full((things.shape[0], len(STUFF), things.shape[2]), 0.5)], dim=1)
    return Truth(match.float(), torch.where(match, rarity, negative))


def held_out(colours: Tensor, kind: int) -> Tensor:
    """(..., words of the kind) bool: training never shows this colour (-2: no name) with that texture or shape.

    Args:
        colours: indices into `world.COLOURS`, or -2.
        kind: 0 colour (nothing is held out), 1 texture, 2 shape.
    """
    table = torch.zeros(len(COLOURS), _KINDS[kind], dtype=torch.bool)
    for colour, word in _HELD_OUT[kind]:
        table[COLOURS.index(colour), _WORDS[kind].index(word)] = True
    return table[colours.clamp(min=0)] & (colours >= 0)[..., None]


def _false_by_hole(attributes: Tensor, concepts: Tensor) -> Tensor:
    """(B, 8, T) bool: every word of the text fits the thing, or is held out for its colour."""
    excused = torch.ones(*attributes.shape[:2], concepts.shape[0], dtype=torch.bool)
    for kind in range(3):
        wanted = concepts[:, kind]
        fits = (attributes[..., kind, None] == wanted) | (wanted == -1)
        hole = held_out(attributes[..., 0], kind)[..., wanted.clamp(min=0)] & (wanted >= 0)
        excused &= fits | hole
    return excused & (concepts[:, 3] == -1)


def dense_loss(logits: Tensor, shares: Tensor, truth: Truth) -> Tensor:
    """Weighted sigmoid loss of (B, P, T) logits against the share of each patch the text is true of."""
    target = shares @ truth.match  # (B, P, T)
    weight = shares @ truth.weight
    loss = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
    return loss / weight.sum()


def attribute_loss(logits: Tensor, shares: Tensor, attributes: Tensor) -> Tensor:
    """Cross-entropy among the words of one kind, on patches that one thing mostly covers; weighted sum over the kinds.

    A word held out for the thing's colour takes no part; see `truth_of`.

    Args:
        logits: (B, P, T), the single words first, kind after kind.
        shares: (B, P, 8 + 4) as in `Lesson`.
        attributes: (B, 8, 3) as in `Lesson`.
    """
    losses, start = [], 0
    for kind, size in enumerate(_KINDS):
        losses.append(_kind_loss(logits[..., start : start + size], shares, attributes, kind))
        start += size
    return torch.stack(losses) @ torch.tensor(KIND_WEIGHTS)


def probe_loss(logits: Tensor, shares: Tensor, attributes: Tensor) -> Tensor:
    """Cross-entropy of a probe's (B, P, 4) texture logits halfway up the tower.

    Textures are told by details that the coarse grid above no longer shows. Without a word from the end of the tower
    alone, the early layers first learn outlines, for which textures are only in the way (deep supervision: Lee et al.,
    AISTATS 2015).
    """
    return _kind_loss(logits, shares, attributes, _TEXTURE)


def _kind_loss(logits: Tensor, shares: Tensor, attributes: Tensor, kind: int) -> Tensor:
    share, owner = shares[..., :MAX_THINGS].max(dim=-1)  # (B, P)
    codes = attributes.gather(1, owner[..., None].expand(-1, -1, 3))  # (B, P, 3)
    sure = (share >= SURE_SHARE) & (codes[..., kind] >= 0)
    rivals = logits[sure].masked_fill(held_out(codes[sure][:, 0], kind), -1e4)
    return F.cross_entropy(rivals, codes[sure][:, kind])


def image_loss(scores: Tensor, shares: Tensor, truth: Truth) -> Tensor:
    """Sigmoid loss of (B, T) scores against "more than a patch of it is in the picture"; undecided pairs stay out."""
    visible = (shares.sum(dim=1) > 1).float()[:, None]  # (B, 1, 8 + 4)
    contains = ((visible @ truth.match) > 0)[:, 0]
    undecided = ((visible @ (truth.weight == 0).float()) > 0)[:, 0] & ~contains
    loss = F.binary_cross_entropy_with_logits(scores, contains.float(), reduction="none")
    return loss[~undecided].mean()


def lesson_loss(
    model: Clip, probe: torch.nn.Module, batch: Lesson, *, with_image: bool
) -> tuple[Tensor, dict[str, float]]:
    """The whole objective on one batch.

    Args:
        model: trained with a compact token table.
        probe: from the middle stage's features to texture logits; of use in training only.
        batch: what to learn from.
        with_image: also teach the pooled feature what the picture contains; pictures must have the native size.

    Returns:
        the loss, and its parts for the log.
    """
    pixels, shares = torch.from_numpy(batch.pixels), torch.from_numpy(batch.shares)
    attributes, concepts = torch.from_numpy(batch.attributes), torch.from_numpy(batch.concepts)
    truth = truth_of(attributes, torch.from_numpy(batch.present), concepts)
    texts = encode_texts(model, torch.from_numpy(batch.tokens))
    middle = middle_stage(model.visual, pixels.to(memory_format=torch.channels_last))
    places = dilated_stages(model.visual, middle)
    patches = patch_features(model, places)
    scale = model.logit_scale.exp()
    logits = scale * (patches @ texts.T) + model.logit_bias  # (B, P, T)
    dense = dense_loss(logits, shares, truth)
    words = attribute_loss(logits, shares, attributes)
    probed = probe_loss(probe(middle.permute(0, 2, 3, 1).flatten(1, 2)), shares, attributes)
    loss = 3 * dense + words + PROBE_SHARE * probed
    parts = {"dense": dense.item(), "words": words.item(), "probe": probed.item()}
    if with_image:
        scores = scale * (picture_features(model, places) @ texts.T) + model.logit_bias  # (B, T)
        image = image_loss(scores, shares, truth)
        loss = loss + IMAGE_SHARE * image
        parts["image"] = image.item()
    return loss, parts

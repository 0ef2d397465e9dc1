"""Training objective of the builtin model: sigmoid losses between patches and texts.

Sigmoid losses of pairs as in SigLIP (Zhai et al., ICCV 2023), applied to each patch, so that 0 becomes an absolute
threshold of the logits: a text that describes nothing in a patch has a negative logit there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.lab.drawn_world.batches import MAX_THINGS, TrainingBatch
from worker.lab.drawn_world.world import COLOURS, SHAPES, STUFF, TEXTURES, UNSEEN_COLOUR_SHAPES, UNSEEN_COLOUR_TEXTURES
from worker.segmentation.encoders.resnet import dilated_stages, last_stage, middle_stage, project
from worker.segmentation.encoders.vit import has_class_token, token_features

Clip = Any
"""An `open_clip.CLIP`; open_clip ships no types."""

HARD_NEGATIVE = 3.0
IMAGE_SHARE, PROBE_SHARE, TOKENS_SHARE = 0.1, 0.3, 0.5
# Colour, texture, shape, at the end of the shipped run; earlier they were larger, see docs/research/builtin.md.
KIND_WEIGHTS = (0.1, 0.5, 0.15)
SURE_SHARE = 0.6
_WORDS = (COLOURS, TEXTURES, SHAPES)
_TEXTURE = 1  # index among the kinds
_KINDS = tuple(len(words) for words in _WORDS)
_HELD_OUT: tuple[frozenset[tuple[str, str]], ...] = (frozenset(), UNSEEN_COLOUR_TEXTURES, UNSEEN_COLOUR_SHAPES)


@dataclass(frozen=True)
class PairTruth:
    """Truth of each pair of a thing or stuff with a text.

    Attributes:
        match: (B, 8 + 4, T) float32, 1 where the text describes it.
        weight: (B, 8 + 4, T) float32, of the pair in the loss.
    """

    match: Tensor
    weight: Tensor


def encode_texts(model: Clip, tokens: Tensor) -> Tensor:
    """Unit text features (T, D) of tokens (T, L <= context length): attention never reaches beyond the end mark."""
    length = tokens.shape[1]
    states = model.token_embedding(tokens) + model.positional_embedding[:length]
    states = model.ln_final(model.transformer(states, attn_mask=model.attn_mask[:length, :length]))
    ends = states[torch.arange(tokens.shape[0]), tokens.argmax(dim=1)]  # (T, width)
    return F.normalize((ends @ model.text_projection).float(), dim=-1)


def dense_features(model: Clip, pixels: Tensor) -> Tensor:
    """Unit patch features (B, P, D) float32, as the service computes them."""
    if has_class_token(model.visual):
        return F.normalize(token_features(model.visual, pixels)[:, 1:], dim=-1)
    return patch_features(model, last_stage(model.visual, pixels))


def patch_features(model: Clip, places: Tensor) -> Tensor:
    """Unit patch features (B, P, D) of the last stage's (B, C, h, w)."""
    return F.normalize(project(model.visual, places).flatten(1, 2), dim=-1)


def picture_features(model: Clip, places: Tensor) -> Tensor:
    """Unit features (B, D) of whole native-size images, as `encode_image` pools them from every fourth place."""
    return F.normalize(model.visual.attnpool(places[..., 1::4, 1::4]), dim=-1)


@dataclass(frozen=True)
class SeenImages:
    """What an image tower makes of a batch in training.

    Attributes:
        middle: (B, P, C) float32 features of the patches halfway up the tower.
        patches: (B, P, D) float32 features of unit length, as `dense_features` gives them.
        whole: (B, D) float32 features of unit length of whole images, as `encode_image` gives them; None = not asked.
        tokens: (B, P, D) float32 of unit length, a ViT's patch tokens after its last block as it is, which is what
            networks read that put tokens of their own into it; None of a ResNet.
    """

    middle: Tensor
    patches: Tensor
    whole: Tensor | None
    tokens: Tensor | None = None


def see(model: Clip, pixels: Tensor, *, whole: bool) -> SeenImages:
    """Run the image tower, a ResNet or a ViT, on (B, 3, H, W) float32 pixels; `whole` ones have the native size."""
    visual = model.visual
    if has_class_token(visual):
        depth = len(visual.transformer.resblocks)
        collected = dict.fromkeys((depth // 2, depth - 1), pixels)
        patches = F.normalize(token_features(visual, pixels, collected=collected)[:, 1:], dim=-1)
        tokens = F.normalize(visual.ln_post(collected[depth - 1]) @ visual.proj, dim=-1)
        return SeenImages(collected[depth // 2][:, 1:], patches, tokens[:, 0] if whole else None, tokens[:, 1:])
    middle = middle_stage(visual, pixels.to(memory_format=torch.channels_last))
    places = dilated_stages(visual, middle)
    unit = picture_features(model, places) if whole else None
    return SeenImages(middle.permute(0, 2, 3, 1).flatten(1, 2), patch_features(model, places), unit)


def pair_truth(attributes: Tensor, present: Tensor, concepts: Tensor) -> Tensor:
    """(B, 8 + 4, T) bool: the text describes the thing (first 8) or the stuff (last 4)."""
    wanted = concepts[:, :3]
    fits = ((attributes[:, :, None] == wanted) | (wanted == -1)).all(dim=-1)  # (B, 8, T)
    things = fits & (concepts[:, 3] == -1) & present[..., None]
    ground = torch.arange(len(STUFF))[:, None]
    stuff = (concepts[:, 3] == ground) | (concepts[:, 3] == len(STUFF))  # (4, T)
    return torch.cat([things, stuff.expand(things.shape[0], -1, -1)], dim=1)


def truth_of(attributes: Tensor, present: Tensor, concepts: Tensor) -> PairTruth:
    """Weight pairs: rare positives by the root of their rarity, negatives that share a word three times the others.

    Negatives that are negative only because a pair is held out have weight 0. Red things are never dotted in training,
    so "dotted" would be negative for every red thing, and the model would learn "red, hence not dotted" from the gap:
    without this rule the single-word accuracy for textures on held-out pairs stayed below chance.
    """
    match = pair_truth(attributes, present, concepts)
    wanted = concepts[:, :3]
    rarity = torch.where(wanted >= 0, torch.tensor(_KINDS, dtype=torch.float32), torch.tensor(1.0)).prod(dim=1).sqrt()
    shares_word = ((attributes[:, :, None] == wanted) & (wanted >= 0)).any(dim=-1)  # (B, 8, T)
    things = torch.where(shares_word, HARD_NEGATIVE, 1.0)
    things = torch.where(_negative_by_hold_out(attributes, concepts), 0.0, things)
    negative = torch.cat([things, torch.full((things.shape[0], len(STUFF), things.shape[2]), 0.5)], dim=1)
    return PairTruth(match.float(), torch.where(match, rarity, negative))


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


def _negative_by_hold_out(attributes: Tensor, concepts: Tensor) -> Tensor:
    """(B, 8, T) bool: each word of the text fits the thing or is held out for its colour."""
    excused = torch.ones(*attributes.shape[:2], concepts.shape[0], dtype=torch.bool)
    for kind in range(3):
        wanted = concepts[:, kind]
        fits = (attributes[..., kind, None] == wanted) | (wanted == -1)
        gap = held_out(attributes[..., 0], kind)[..., wanted.clamp(min=0)] & (wanted >= 0)
        excused &= fits | gap
    return excused & (concepts[:, 3] == -1)


def dense_loss(logits: Tensor, shares: Tensor, truth: PairTruth) -> Tensor:
    """Weighted sigmoid loss of (B, P, T) logits against the share of each patch that the text describes."""
    target = shares @ truth.match  # (B, P, T)
    weight = shares @ truth.weight
    loss = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
    return loss / weight.sum()


def attribute_loss(logits: Tensor, shares: Tensor, attributes: Tensor) -> Tensor:
    """Cross-entropy among the words of one kind, on patches that one thing mostly covers; weighted sum over the kinds.

    Words held out for the thing's colour are left out; see `truth_of`.

    Args:
        logits: (B, P, T), the single words first, kind after kind.
        shares: (B, P, 8 + 4) as in `TrainingBatch`.
        attributes: (B, 8, 3) as in `TrainingBatch`.
    """
    losses, start = [], 0
    for kind, size in enumerate(_KINDS):
        losses.append(_kind_loss(logits[..., start : start + size], shares, attributes, kind))
        start += size
    return torch.stack(losses) @ torch.tensor(KIND_WEIGHTS)


def probe_loss(logits: Tensor, shares: Tensor, attributes: Tensor) -> Tensor:
    """Cross-entropy of a probe's (B, P, 4) texture logits halfway up the tower.

    Textures are details that the coarser grid at the end no longer resolves. Supervised from the end alone, the early
    layers first learn outlines, to which textures are noise (deep supervision: Lee et al., AISTATS 2015).
    """
    return _kind_loss(logits, shares, attributes, _TEXTURE)


def _kind_loss(logits: Tensor, shares: Tensor, attributes: Tensor, kind: int) -> Tensor:
    share, owner = shares[..., :MAX_THINGS].max(dim=-1)  # (B, P)
    codes = attributes.gather(1, owner[..., None].expand(-1, -1, 3))  # (B, P, 3)
    sure = (share >= SURE_SHARE) & (codes[..., kind] >= 0)
    candidates = logits[sure].masked_fill(held_out(codes[sure][:, 0], kind), -1e4)
    return F.cross_entropy(candidates, codes[sure][:, kind])


def image_loss(scores: Tensor, shares: Tensor, truth: PairTruth) -> Tensor:
    """Sigmoid loss of (B, T) scores against "the image has more than one patch of it"; undecided pairs are left out."""
    visible = (shares.sum(dim=1) > 1).float()[:, None]  # (B, 1, 8 + 4)
    contains = ((visible @ truth.match) > 0)[:, 0]
    undecided = ((visible @ (truth.weight == 0).float()) > 0)[:, 0] & ~contains
    loss = F.binary_cross_entropy_with_logits(scores, contains.float(), reduction="none")
    return loss[~undecided].mean()


def batch_loss(
    model: Clip, probe: torch.nn.Module, batch: TrainingBatch, *, with_image: bool
) -> tuple[Tensor, dict[str, float]]:
    """The whole objective on one batch.

    Args:
        model: trained with a compact token table.
        probe: from the middle stage's features to texture logits; used in training only.
        batch: the batch.
        with_image: also train the pooled feature on what the image contains; images must have the native size.

    Returns:
        the loss, and its parts for the log.
    """
    pixels, shares = torch.from_numpy(batch.pixels), torch.from_numpy(batch.shares)
    attributes, concepts = torch.from_numpy(batch.attributes), torch.from_numpy(batch.concepts)
    truth = truth_of(attributes, torch.from_numpy(batch.present), concepts)
    texts = encode_texts(model, torch.from_numpy(batch.tokens))
    seen = see(model, pixels, whole=with_image)
    scale = model.logit_scale.exp()

    def compared(patches: Tensor) -> tuple[Tensor, Tensor]:
        logits = scale * (patches @ texts.T) + model.logit_bias  # (B, P, T)
        return dense_loss(logits, shares, truth), attribute_loss(logits, shares, attributes)

    dense, words = compared(seen.patches)
    probed = probe_loss(probe(seen.middle), shares, attributes)
    loss = 3 * dense + words + PROBE_SHARE * probed
    parts = {"dense": dense.item(), "words": words.item(), "probe": probed.item()}
    if seen.tokens is not None:
        token_dense, token_words = compared(seen.tokens)
        loss = loss + TOKENS_SHARE * (3 * token_dense + token_words)
        parts["tokens"] = token_words.item()
    if seen.whole is not None:
        scores = scale * (seen.whole @ texts.T) + model.logit_bias  # (B, T)
        image = image_loss(scores, shares, truth)
        loss = loss + IMAGE_SHARE * image
        parts["image"] = image.item()
    return loss, parts

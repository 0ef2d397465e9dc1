"""ZegCLIP: Towards adapting CLIP for zero-shot semantic segmentation (Zhou et al., CVPR 2023).

A frozen ViT reads the image with trained prompts in every block; the query of a label is its vector beside the product
of its vector and the image's; a decoder compares queries and patches. Any labels may be given at any time.
"""

from __future__ import annotations

from math import gcd

import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from worker.learning.recipes.dense.networks import Change, DenseNetwork, DenseOutput, PixelFeatures
from worker.learning.recipes.dense.zegclip_decoder import DeepPrompts, TextPatchDecoder, start_as_cosines, start_narrow
from worker.learning.recipes.dense.zegclip_presets import ZegclipPreset
from worker.segmentation.encoders.token_towers import token_tower
from worker.segmentation.encoders.towers import Tower, TowerMaps, for_autograd

CLASS_TOKEN = "class_token"
"""Name of the (B, D) class tokens among the features, in the space of the label vectors, not normalised."""


class ZegclipNetwork(DenseNetwork):
    """Holds the prompts, the decoder and, where it is trained, the tower.

    Where the tower shares no space with the label vectors, a trained projection leads there.

    Args:
        preset: of what form and size.
        tower: a ViT with a class token.
        width: D of the label vectors.

    Attributes:
        pseudo_labelled: whether training has given it pseudo-labels; its trainer says so, and no state holds it.

    Raises:
        ModelUnavailable: the tower is no ViT with a class token.
    """

    preset: ZegclipPreset

    def __init__(self, preset: ZegclipPreset, tower: Tower, width: int) -> None:
        if preset.released_grid:  # the authors' code normalises as for ImageNet, though CLIP was not trained so
            tower = tower.normalised_by(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        super().__init__(preset, tower, width)
        self.shares_maps = False  # prompts change what the tower sees
        self.pseudo_labelled = False
        self._tokens = tokens = token_tower(self.tower, grid_as_released=preset.released_grid)
        self.prompts = None
        if preset.prompts:
            self.prompts = DeepPrompts(preset.prompts, depth=tokens.depth, width=tokens.width, patch=tower.multiple)
        self.project = None
        if not tokens.shares_text or tokens.out_width != width:
            self.project = nn.Linear(tokens.out_width, width)
        self.query = nn.Linear(2 * width if preset.descriptor else width, width)
        self.query.apply(start_narrow)
        heads = gcd(preset.heads, width)
        self.decoder = TextPatchDecoder(width, layers=preset.layers, heads=heads, counting=preset.counting)

    def start_as_cosines(self, *, scale: float, bias: float) -> None:
        """See `zegclip_decoder.start_as_cosines`."""
        start_as_cosines(self.query, self.decoder, scale=scale, bias=bias)

    @property
    def entry_in_words_space(self) -> bool:
        """See `DenseNetwork`: its masks start as cosines of patches and words where the preset says so."""
        return self.preset.aligned and self.project is None

    @torch.no_grad()
    def entry(self, pixels: Tensor) -> Tensor:
        """See `DenseNetwork`: the patches as the decoder reads them, which the prompts have a part in."""
        return F.normalize(self.encode(pixels).embedding.float(), dim=1)

    def encode(self, pixels: Tensor, change: Change | None = None) -> PixelFeatures:
        """See `DenseNetwork`. Also (B, D) class tokens, which no change reaches."""
        prefix = self._tokens.prefix
        tokens, grid = self._tokens.start(for_autograd(pixels))
        cells = grid[0] * grid[1]
        for block in range(self._tokens.depth):
            if self.prompts is not None:
                prompts = self.prompts(block, len(tokens)).to(tokens.dtype)
                tokens = torch.cat([tokens[:, :prefix], prompts, tokens[:, -cells:]], dim=1)
            tokens = self._tokens.block(block, tokens)
        tokens = torch.cat([tokens[:, :1], tokens[:, -cells:]], dim=1)  # (B, 1 + h * w, width)
        if self.prompts is not None:
            tokens = self.prompts.norm(tokens)
        tokens = self._tokens.finish(tokens)
        if self.project is not None:
            tokens = self.project(tokens)
        patches = tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, *grid)
        if change is not None:
            patches = change(F.normalize(patches.float(), dim=1))
        return PixelFeatures(patches, {CLASS_TOKEN: tokens[:, 0]})

    def read(self, maps: TowerMaps) -> PixelFeatures:
        """Maps of the tower as it was trained are of no use: prompts change them."""
        raise NotImplementedError

    def decode(self, features: PixelFeatures, labels: Tensor) -> DenseOutput:
        """See `DenseNetwork`. The sigmoid of a logit, or with an exclusive preset the softmax, is the mask."""
        patches = F.normalize(for_autograd(features.embedding).float(), dim=1)  # (B, D, h, w)
        image = F.normalize(for_autograd(features.maps[CLASS_TOKEN]).float(), dim=1)  # (B, D)
        words = F.normalize(for_autograd(labels).to(patches), dim=1)  # (T, D)
        queries = words.expand(len(image), -1, -1)
        if self.preset.descriptor:
            queries = torch.cat([words * image[:, None], queries], dim=2)  # (B, T, 2 D)
        logits = self.decoder(self.query(queries), patches.flatten(2).transpose(1, 2))
        return DenseOutput(logits.reshape(*logits.shape[:2], *patches.shape[2:]), features.maps)

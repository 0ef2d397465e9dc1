"""LSeg's spatial regularisation (Li et al., ICLR 2022): small blocks on the logits that treat every label alike.

A block has 10 parameters whatever the labels, and a depth uses the same block again.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "lrelu": F.leaky_relu, "tanh": torch.tanh}


class DepthwiseBlock(nn.Module):
    """One 3x3 convolution, the same for each label. It starts as the identity: training starts from the cosines."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[0, 0, 1, 1] = 1
            self.conv.bias.zero_()  # type: ignore[union-attr]

    def forward(self, logits: Tensor) -> Tensor:
        """(B, T, h, w) to the same shape."""
        return torch.as_tensor(self.conv(logits.flatten(0, 1)[:, None])[:, 0]).view_as(logits)


class BottleneckBlock(DepthwiseBlock):
    """The same, plus the largest logit of the pixel: each label learns how strong the strongest is."""

    def forward(self, logits: Tensor) -> Tensor:
        """(B, T, h, w) to the same shape."""
        return super().forward(logits) + logits.amax(dim=1, keepdim=True)


BLOCKS: dict[str, type[DepthwiseBlock]] = {"depthwise": DepthwiseBlock, "bottleneck": BottleneckBlock}


class Regularisation(nn.Module):
    """A block applied some times, with an activation between.

    Args:
        block: a name in BLOCKS.
        depth: how often; 1 = once, without activation.
        activation: a name in ACTIVATIONS.
    """

    def __init__(self, block: str, *, depth: int = 1, activation: str = "lrelu") -> None:
        super().__init__()
        self.block = BLOCKS[block]()
        self._depth, self._activation = depth, ACTIVATIONS[activation]

    def forward(self, logits: Tensor) -> Tensor:
        """(B, T, h, w) to the same shape."""
        for _ in range(self._depth - 1):
            logits = self._activation(self.block(logits))
        return torch.as_tensor(self.block(logits))

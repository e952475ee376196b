"""FAN and EmoNet in PyTorch, for speed comparisons.

Bulat and Tzimiropoulos, ICCV 2017, and Toisoul et al., Nature Machine Intelligence 2021. Written
from the names and shapes of the released state dicts, which load unchanged.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

WIDTH, DEPTH, LANDMARKS = 256, 4, 68


def _relu(x: torch.Tensor) -> torch.Tensor:
    return F.relu(x, inplace=True)


def _conv3(in_features: int, features: int) -> nn.Conv2d:
    return nn.Conv2d(in_features, features, 3, padding=1, bias=False)


class ConvBlock(nn.Module):
    """Three convolutions after BatchNorm and ReLU, concatenated, plus a shortcut."""

    def __init__(self, in_features: int, features: int):
        super().__init__()
        half, quarter = features // 2, features // 4
        self.bn1, self.conv1 = nn.BatchNorm2d(in_features), _conv3(in_features, half)
        self.bn2, self.conv2 = nn.BatchNorm2d(half), _conv3(half, quarter)
        self.bn3, self.conv3 = nn.BatchNorm2d(quarter), _conv3(quarter, quarter)
        self.downsample = None
        if in_features != features:
            self.downsample = nn.Sequential(
                nn.BatchNorm2d(in_features),
                nn.ReLU(inplace=True),
                nn.Conv2d(in_features, features, 1, bias=False),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.conv1(_relu(self.bn1(x)))
        second = self.conv2(_relu(self.bn2(first)))
        third = self.conv3(_relu(self.bn3(second)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return torch.cat((first, second, third), 1) + shortcut


class HourGlass(nn.Module):
    """Levels `depth` (outermost) to 1; every block is a member of this module."""

    def __init__(self, depth: int, features: int, pool: str):
        super().__init__()
        self.depth = depth
        self.pool = _pool(pool)
        for level in range(depth, 0, -1):
            for branch in ("b1", "b2", "b3"):
                self.add_module(f"{branch}_{level}", ConvBlock(features, features))
        self.b2_plus_1 = ConvBlock(features, features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._level(self.depth, x)

    def _level(self, level: int, x: torch.Tensor) -> torch.Tensor:
        skip = getattr(self, f"b1_{level}")(x)
        low = getattr(self, f"b2_{level}")(self.pool(x))
        low = self._level(level - 1, low) if level > 1 else self.b2_plus_1(low)
        low = getattr(self, f"b3_{level}")(low)
        return skip + F.interpolate(low, scale_factor=2, mode="nearest")


def _pool(kind: str) -> nn.Module:
    return nn.MaxPool2d(2) if kind == "max" else nn.AvgPool2d(2)


class FAN(nn.Module):
    """Stacked hourglasses; `forward` gives the heatmaps of every stack.

    Args:
      stacks: hourglasses.
      pool: "avg" (the landmark detector) or "max" (inside EmoNet).
      width, depth, landmarks: features, levels of an hourglass, heatmaps.
    """

    def __init__(
        self,
        stacks: int = 4,
        pool: str = "avg",
        width: int = WIDTH,
        depth: int = DEPTH,
        landmarks: int = LANDMARKS,
    ):
        super().__init__()
        self.stacks = stacks
        self.pool = _pool(pool)
        self.conv1 = nn.Conv2d(3, width // 4, 7, stride=2, padding=3)
        self.bn1 = nn.BatchNorm2d(width // 4)
        self.conv2 = ConvBlock(width // 4, width // 2)
        self.conv3 = ConvBlock(width // 2, width // 2)
        self.conv4 = ConvBlock(width // 2, width)
        for i in range(stacks):
            self.add_module(f"m{i}", HourGlass(depth, width, pool))
            self.add_module(f"top_m_{i}", ConvBlock(width, width))
            self.add_module(f"conv_last{i}", nn.Conv2d(width, width, 1))
            self.add_module(f"bn_end{i}", nn.BatchNorm2d(width))
            self.add_module(f"l{i}", nn.Conv2d(width, landmarks, 1))
            if i < stacks - 1:
                self.add_module(f"bl{i}", nn.Conv2d(width, width, 1))
                self.add_module(f"al{i}", nn.Conv2d(landmarks, width, 1))

    def trunk(self, x: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the stem's and every stack's features, and every stack's heatmaps."""
        x = _relu(self.bn1(self.conv1(x)))
        x = self.conv4(self.conv3(self.pool(self.conv2(x))))
        features, heatmaps = [x], []
        for i in range(self.stacks):
            y = getattr(self, f"top_m_{i}")(getattr(self, f"m{i}")(x))
            y = _relu(getattr(self, f"bn_end{i}")(getattr(self, f"conv_last{i}")(y)))
            heatmaps.append(getattr(self, f"l{i}")(y))
            if i < self.stacks - 1:
                y = getattr(self, f"bl{i}")(y)
                x = x + y + getattr(self, f"al{i}")(heatmaps[-1])
            features.append(y)
        return features, heatmaps

    def forward(self, x: torch.Tensor) -> Any:
        """Return heatmaps [B, landmarks, H/4, W/4] of every stack, for images [B, 3, H, W]."""
        return self.trunk(x)[1]


class EmoNet(FAN):
    """A FAN of two stacks, and a branch for expression, valence and arousal.

    Args:
      n_expression: classes.
      attention: multiply the stacks' features by the sum of the last heatmaps.
      width, depth: of the trunk.
      blocks: halvings of the branch.
    """

    HEAD = ("conv1x1_input_emo_2", "emo_net_2", "emo_fc_2")

    def __init__(
        self,
        n_expression: int = 8,
        attention: bool = True,
        width: int = WIDTH,
        depth: int = DEPTH,
        blocks: int = 4,
    ):
        super().__init__(2, "max", width, depth)
        self.attention = attention
        in_features = 3 * width + (0 if attention else LANDMARKS)
        self.conv1x1_input_emo_2 = nn.Conv2d(in_features, width, 1)
        layers: list[nn.Module] = []
        for _ in range(blocks):
            layers += [ConvBlock(width, width), nn.MaxPool2d(2)]
        self.emo_net_2 = nn.Sequential(*layers)
        self.emo_fc_2 = nn.Sequential(
            nn.Linear(width, width // 2),
            nn.BatchNorm1d(width // 2),
            nn.ReLU(inplace=True),
            nn.Linear(width // 2, n_expression + 2),
        )

    def parts(self) -> dict[str, list[nn.Module]]:
        """Return the modules of each part that can be frozen."""
        return {"trunk": [m for name, m in self.named_children() if name not in self.HEAD]}

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return `heatmap`, `expression`, `valence`, `arousal` for images [B, 3, H, W]."""
        (stem, *features), heatmaps = self.trunk(x)
        collected = torch.cat(features, 1)
        if self.attention:
            parts = [stem, collected * heatmaps[-1].sum(1, keepdim=True)]
        else:
            parts = [stem, collected, heatmaps[-1]]
        y = self.emo_net_2(self.conv1x1_input_emo_2(torch.cat(parts, 1)))
        y = self.emo_fc_2(F.adaptive_avg_pool2d(y, 1).flatten(1))
        return {
            "heatmap": heatmaps[-1],
            "expression": y[:, :-2],
            "valence": y[:, -2],
            "arousal": y[:, -1],
        }

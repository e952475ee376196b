"""IR-50 and MobileFaceNet in PyTorch: the two backbones of POSTER++.

Deng et al., "ArcFace", CVPR 2019, and Chen et al., "MobileFaceNets", CCBR 2018. Written from the
names and shapes of the released state dicts, which load unchanged.
"""

import torch
import torch.nn.functional as F
from torch import nn

_STAGES = ((64, 3), (128, 4), (256, 14))
_FACE = 112


class Unit(nn.Module):
    """A residual unit of IR-50."""

    def __init__(self, in_features: int, features: int, stride: int):
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        if in_features != features:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(in_features, features, 1, stride, bias=False), nn.BatchNorm2d(features)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(in_features),
            nn.Conv2d(in_features, features, 3, 1, 1, bias=False),
            nn.PReLU(features),
            nn.Conv2d(features, features, 3, stride, 1, bias=False),
            nn.BatchNorm2d(features),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class IR50(nn.Module):
    """Three stages, each halving the maps; `output_layer` is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)
        )
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(512),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(512 * 7 * 7, 512),
            nn.BatchNorm1d(512),
        )
        in_features = 64
        for stage, (features, count) in enumerate(_STAGES):
            units = []
            for i in range(count):
                units.append(Unit(in_features, features, 1 if i else 2))
                in_features = features
            self.add_module(f"body{stage + 1}", nn.Sequential(*units))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return maps of 56, 28 and 14 pixels for images [B, 3, H, W] of any size."""
        x = self.input_layer(F.interpolate(x, size=_FACE))
        found = []
        for stage in range(len(_STAGES)):
            x = getattr(self, f"body{stage + 1}")(x)
            found.append(x)
        return found


class ConvUnit(nn.Module):
    """A convolution without bias, BatchNorm, and PReLU unless it projects."""

    def __init__(
        self,
        in_features: int,
        features: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        padding: int | None = None,
        act: bool = True,
    ):
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(
            in_features, features, kernel, stride, padding, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(features)
        self.prelu = nn.PReLU(features) if act else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn(self.conv(x))
        return x if self.prelu is None else self.prelu(x)


class Bottleneck(nn.Module):
    """1x1 to `hidden`, depthwise 3x3 with the stride, 1x1 to `features`."""

    def __init__(
        self, in_features: int, hidden: int, features: int, stride: int = 1, residual: bool = False
    ):
        super().__init__()
        self.residual = residual
        self.conv = ConvUnit(in_features, hidden)
        self.conv_dw = ConvUnit(hidden, hidden, 3, stride, groups=hidden)
        self.project = ConvUnit(hidden, features, act=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.project(self.conv_dw(self.conv(x)))
        return x + y if self.residual else y


class _Stage(nn.Module):
    def __init__(self, features: int, hidden: int, count: int):
        super().__init__()
        units = (Bottleneck(features, hidden, features, residual=True) for _ in range(count))
        self.model = nn.Sequential(*units)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


class _Landmarks(nn.Module):
    """The head that POSTER++ computes and does not read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_6_dw = ConvUnit(512, 512, 7, groups=512, padding=0, act=False)
        self.linear = nn.Linear(512, 136, bias=False)
        self.bn = nn.BatchNorm1d(136)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.linear(self.conv_6_dw(x).flatten(1)))


class MobileFaceNet(nn.Module):
    """Maps of 28, 14 and 7 pixels for images [B, 3, 112, 112]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = ConvUnit(3, 64, 3, 2)
        self.conv2_dw = ConvUnit(64, 64, 3, groups=64)
        self.conv_23 = Bottleneck(64, 128, 64, 2)
        self.conv_3 = _Stage(64, 128, 4)
        self.conv_34 = Bottleneck(64, 256, 128, 2)
        self.conv_4 = _Stage(128, 256, 6)
        self.conv_45 = Bottleneck(128, 512, 128, 2)
        self.conv_5 = _Stage(128, 256, 2)
        self.conv_6_sep = ConvUnit(128, 512)
        self.output_layer = _Landmarks()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = self.conv2_dw(self.conv1(x))
        out3 = self.conv_3(self.conv_23(x))
        out4 = self.conv_4(self.conv_34(out3))
        features = self.conv_6_sep(self.conv_5(self.conv_45(out4)))
        self.output_layer(features)  # the released code computes it too
        return out3, out4, features

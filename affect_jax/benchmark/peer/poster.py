"""POSTER++ in PyTorch, for speed comparisons.

Mao et al., "POSTER++: a simpler and stronger facial expression recognition network", 2023. Written
from the names and shapes of the released state dict, which loads unchanged, with the entries that
never reach the output.
"""

import torch
import torch.nn.functional as F
from torch import nn

from affect_jax.benchmark.peer.backbones import IR50, MobileFaceNet

_DIMS, _HEADS, _WINDOWS = (64, 128, 256), (2, 4, 8), (28, 14, 7)
_EMBEDDING, _TOKENS, _FACE = 768, 3 * 49 + 1, 112


class MLP(nn.Module):
    def __init__(self, features: int):
        super().__init__()
        self.fc1 = nn.Linear(features, 4 * features)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * features, features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(x)))


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None = None):
    """Attend with products and a softmax, as the released code does; all are [B, H, N, D]."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if bias is not None:
        scores = scores + bias
    y = torch.softmax(scores, -1) @ v
    return y.transpose(1, 2).flatten(2)


class WindowAttention(nn.Module):
    """Attention inside windows, queries from another map, relative position bias."""

    def __init__(self, features: int, heads: int, window: int):
        super().__init__()
        self.heads = heads
        rows = (2 * window - 1) ** 2
        self.relative_position_bias_table = nn.Parameter(torch.randn(rows, heads) * 0.02)
        row, column = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        row, column = row.flatten(), column.flatten()
        index = (row[:, None] - row + window - 1) * (2 * window - 1)
        index = index + column[:, None] - column + window - 1
        self.register_buffer("relative_position_index", index)
        self.qkv = nn.Linear(features, 2 * features)
        self.proj = nn.Linear(features, features)

    def forward(self, x: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        """Attend from `queries` to `x`, both [B, P, C]."""
        b, p, c = x.shape
        k, v = self.qkv(x).reshape(b, p, 2, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q = queries.reshape(b, p, self.heads, c // self.heads).transpose(1, 2)
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        bias = bias.reshape(p, p, -1).permute(2, 0, 1)
        return self.proj(_attend(q, k, v, bias))


class Window(nn.Module):
    """LayerNorm of a map [B, s, s, C], and its windows [B, P, C]."""

    def __init__(self, features: int, window: int):
        super().__init__()
        self.window = window
        self.norm = nn.LayerNorm(features)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.norm(x)
        return windows(x, self.window), x


def windows(x: torch.Tensor, window: int) -> torch.Tensor:
    """Cut a map [B, s, s, C] into [B * windows, window**2, C]."""
    b, s, _, c = x.shape
    n = s // window
    x = x.view(b, n, window, n, window, c).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, window * window, c)


def _drop_path(x: torch.Tensor, rate: float, training: bool) -> torch.Tensor:
    if not training or not rate:
        return x
    keep = x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(1 - rate)
    return x * keep / (1 - rate)


class FeedForward(nn.Module):
    """The two scaled branches that follow a window attention."""

    def __init__(self, features: int, rate: float):
        super().__init__()
        self.rate = rate
        self.gamma1 = nn.Parameter(torch.full((features,), 1e-5))
        self.gamma2 = nn.Parameter(torch.full((features,), 1e-5))
        self.mlp = MLP(features)
        self.norm = nn.LayerNorm(features)

    def forward(self, found: torch.Tensor, shortcut: torch.Tensor) -> torch.Tensor:
        """Return a map [B, s, s, C] of windows [B * n, P, C] and a map."""
        b, s, _, c = shortcut.shape
        w = int(found.shape[1] ** 0.5)
        n = s // w
        found = found.view(b, n, n, w, w, c).permute(0, 1, 3, 2, 4, 5).reshape(b, s, s, c)
        x = shortcut + _drop_path(self.gamma1 * found, self.rate, self.training)
        return x + _drop_path(self.gamma2 * self.mlp(self.norm(x)), self.rate, self.training)


class Attention(nn.Module):
    def __init__(self, features: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(features, 3 * features)
        self.proj = nn.Linear(features, features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(_attend(q, k, v))


class Block(nn.Module):
    """A pre-norm transformer block; `conv` exists in the released files and is not used."""

    def __init__(self, features: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(features, eps=1e-6)
        self.conv = nn.Conv1d(_TOKENS, _TOKENS, 1)
        self.attn = Attention(features, heads)
        self.norm2 = nn.LayerNorm(features, eps=1e-6)
        self.mlp = MLP(features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Gate(nn.Module):
    def __init__(self, features: int):
        super().__init__()
        self.linear1 = nn.Linear(features, features)
        self.linear2 = nn.Linear(features, features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.linear2(F.relu(self.linear1(x))))


class _Linear(nn.Module):
    def __init__(self, features: int, outputs: int):
        super().__init__()
        self.linear = nn.Linear(features, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


class _Projection(nn.Module):
    def __init__(self, in_features: int, features: int):
        super().__init__()
        self.proj = nn.Conv2d(in_features, features, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x)


class _Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 5, padding=2, bias=False)


class Transformer(nn.Module):
    """Two blocks over a class token and the tokens of three maps."""

    def __init__(self, classes: int):
        super().__init__()
        f = _EMBEDDING
        self.cls_token = nn.Parameter(torch.randn(1, 1, f) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, _TOKENS, f) * 0.02)
        self.se_block = Gate(f)
        self.head = _Linear(f, classes)
        self.blocks = nn.Sequential(*(Block(f, 8) for _ in range(2)))
        self.norm = nn.LayerNorm(f, eps=1e-6)
        # In the released files, but never on the way to the output.
        self.patch_embed = _Projection(_DIMS[-1], f)
        self.eca_block = _Unused()
        self.CON1 = nn.Conv2d(_DIMS[-1], f, 1, bias=False)
        self.IRLinear1, self.IRLinear2 = nn.Linear(1024, f), nn.Linear(f, 512)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1) + self.pos_embed
        x = self.norm(self.blocks(x))
        return self.head(self.se_block(x[:, 0]))


class Poster(nn.Module):
    """POSTER++ with a linear classifier; `forward` gives logits."""

    def __init__(self, classes: int = 7):
        super().__init__()
        self.face_landback = MobileFaceNet()
        self.VIT = Transformer(classes)
        self.ir_back = IR50()
        for i, (features, heads, window) in enumerate(zip(_DIMS, _HEADS, _WINDOWS, strict=True)):
            self.add_module(f"attn{i + 1}", WindowAttention(features, heads, window))
            self.add_module(f"window{i + 1}", Window(features, window))
            self.add_module(f"conv{i + 1}", nn.Conv2d(features, features, 3, 2, 1))
            self.add_module(f"ffn{i + 1}", FeedForward(features, 0.125 * i))
        self.last_face_conv = nn.Conv2d(512, _DIMS[-1], 3, padding=1)
        self.embed_q = nn.Sequential(
            nn.Conv2d(_DIMS[0], _EMBEDDING, 3, 2, 1), nn.Conv2d(_EMBEDDING, _EMBEDDING, 3, 2, 1)
        )
        self.embed_k = nn.Sequential(nn.Conv2d(_DIMS[1], _EMBEDDING, 3, 2, 1))
        self.embed_v = _Projection(_DIMS[2], _EMBEDDING)

    def parts(self) -> dict[str, list[nn.Module]]:
        """Return the modules of each part that can be frozen."""
        return {"landmark_net": [self.face_landback], "image_net": [self.ir_back]}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits [B, classes] for normalised images [B, 3, H, W] of any size."""
        faces = list(self.face_landback(F.interpolate(x, size=_FACE)))
        faces[-1] = self.last_face_conv(faces[-1])
        tokens = []
        embeddings = (self.embed_q, self.embed_k, self.embed_v)
        for i, (image, face) in enumerate(zip(self.ir_back(x), faces, strict=True)):
            n = i + 1
            image = getattr(self, f"conv{n}")(image).permute(0, 2, 3, 1)
            inside, shortcut = getattr(self, f"window{n}")(image)
            queries = windows(face.permute(0, 2, 3, 1), _WINDOWS[i])
            found = getattr(self, f"attn{n}")(inside, queries)
            fused = getattr(self, f"ffn{n}")(found, shortcut).permute(0, 3, 1, 2)
            tokens.append(embeddings[i](fused).flatten(2).transpose(1, 2))
        return self.VIT(torch.cat(tokens, 1))

"""The peers: published networks in PyTorch, to be compared with ours.

EmoNet, FAN, POSTER++ and its backbones are written here, with the names and shapes of the released
state dicts; vision transformers and ResNets are those of timm. PyTorch and timm are optional, and
imported when a peer is made.
"""

import importlib
import importlib.util
from typing import Any

from affect_jax.errors import UserError, nearest

# Our name -> timm's.
TIMM = {
    "vit_ti16": "vit_tiny_patch16_224",
    "vit_s16": "vit_small_patch16_224",
    "vit_b16": "vit_base_patch16_224",
    "vit_l16": "vit_large_patch16_224",
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50",
}
OWN = ("emonet", "fan", "ir50", "mobilefacenet", "poster_v2")
NAMES = (*OWN, *TIMM)
# Those that classify expressions, as a training step needs.
CLASSIFIERS = ("emonet", "poster_v2", *TIMM)


def _optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    # A torchvision of another PyTorch makes timm raise a RuntimeError.
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"--peer needs {name}: {error}; pip install timm torch, or leave out --peer"
        ) from error


def version() -> str:
    """Return PyTorch's version; UserError if it is not installed."""
    return _optional("torch").__version__


def check(name: str) -> None:
    """Raise UserError unless the peer `name` can be made here."""
    if name not in NAMES:
        raise UserError(
            f"--peer: no PyTorch network is comparable with {name!r}; {nearest(name, NAMES)}"
        )
    # Not imported: it takes seconds, and the caller may leave the work to another process.
    for package in ("timm", "torch") if name in TIMM else ("torch",):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"--peer needs {package}; pip install timm torch, or leave out --peer")


def create(name: str, *, classes: int = 7, **arguments: Any) -> Any:
    """Return a PyTorch network with fresh weights, in training mode.

    Args:
      name: one of `NAMES`.
      classes: expressions.
      **arguments: of the network, such as `attention` of EmoNet or timm's `img_size`.

    Returns:
      A module from images float [B, 3, H, W] to logits [B, classes], or, for EmoNet, to a dict of
      `expression`, `valence`, `arousal` and `heatmap`. FAN and the backbones give lists of maps.

    Raises:
      UserError: PyTorch or timm is not installed, or there is no such network.
    """
    check(name)
    _optional("torch")
    if name in TIMM:
        return _optional("timm").create_model(TIMM[name], num_classes=classes, **arguments)
    from affect_jax.benchmark.peer import backbones, fan, poster

    if name == "emonet":
        return fan.EmoNet(classes, **arguments)
    if name == "poster_v2":
        return poster.Poster(classes, **arguments)
    makers = {"fan": fan.FAN, "ir50": backbones.IR50, "mobilefacenet": backbones.MobileFaceNet}
    return makers[name](**arguments)


def freeze(model: Any, parts: tuple[str, ...]) -> None:
    """Take parts of a network out of training, with their BatchNorm statistics.

    Args:
      model: a network with a method `parts`.
      parts: names of its parts: `trunk` of EmoNet, `landmark_net` and `image_net` of POSTER++.

    Raises:
      UserError: the network has no such part.
    """
    known = model.parts() if hasattr(model, "parts") else {}
    for name in parts:
        if name not in known:
            raise UserError(f"the peer has no part {name!r}; it has: {', '.join(known) or 'none'}")
        for module in known[name]:
            module.requires_grad_(False)
            module.train(False)

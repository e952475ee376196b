"""The peer of the training benchmark: timm's vision transformers in PyTorch."""

import time
from collections.abc import Callable
from typing import Any

from affect_jax.errors import UserError

# Our name -> timm's.
_NAMES = {
    "vit_ti16": "vit_tiny_patch16_224",
    "vit_s16": "vit_small_patch16_224",
    "vit_b16": "vit_base_patch16_224",
    "vit_l16": "vit_large_patch16_224",
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50",
}


def _modules() -> tuple[Any, Any]:
    try:
        import timm
        import torch
    except ImportError as error:
        raise UserError(f"--peer: {error}; pip install timm torch, or leave out --peer") from error
    return timm, torch


def version() -> str:
    """Return PyTorch's version; UserError if timm or PyTorch is not installed."""
    return _modules()[1].__version__


def training(
    name: str,
    *,
    image_size: int,
    batch_size: int,
    classes: int,
    low_precision: bool,
    steps: int,
) -> Callable[[], float]:
    """Return a function that trains `steps` steps and gives images a second.

    It uses torch.compile and AdamW (fused on a GPU); with `low_precision`, bf16 autocast.

    Raises:
      UserError: if timm or PyTorch is not installed or has no such model.
    """
    timm, torch = _modules()
    if name not in _NAMES:
        raise UserError(f"--peer: timm has no equivalent of {name}; use {', '.join(_NAMES)}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = {"img_size": image_size} if name.startswith("vit") else {}
    model = timm.create_model(_NAMES[name], num_classes=classes, **size).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device == "cuda")
    compiled = torch.compile(model)
    images = torch.randn(batch_size, 3, image_size, image_size, device=device)
    labels = torch.randint(0, classes, (batch_size,), device=device)

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=low_precision):
            loss = torch.nn.functional.cross_entropy(compiled(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def run() -> float:
        wait()
        start = time.perf_counter()
        for _ in range(steps):
            step()
        wait()
        return steps * batch_size / (time.perf_counter() - start)

    run()  # compiles
    return run

"""Training steps and predictions of a peer in PyTorch."""

import contextlib
import gc
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from affect_jax.benchmark import peer
from affect_jax.benchmark.cases import Case, classes_of, config_of
from affect_jax.benchmark.timing import CLOCKS, Engine

_TRIES, _PAUSE = 10, 5.0  # seconds
_WARM_UP = 3  # steps before a measurement: the allocator has given its memory back


def device_name() -> str:
    """Return the name of the device that PyTorch uses."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


class Measured:
    """A step that can be timed; its memory is given back after each measurement."""

    def __init__(self, step: Callable[[], Any], batch_size: int, steps: int, clock: str = "wall"):
        self._step, self._batch, self._steps = step, batch_size, steps
        self._clock = CLOCKS[clock]
        self.about: dict[str, Any] = {}
        self._begin()
        self._release()

    def _begin(self) -> None:
        """Take two steps, which compiles; wait for memory that others use meanwhile."""
        for _ in range(_TRIES):
            with contextlib.suppress(torch.OutOfMemoryError):
                for _ in range(2):
                    self._step()
                return
            self._release()
            time.sleep(_PAUSE)
        self._step()

    def _wait(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def _release(self) -> None:
        self._wait()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def __call__(self) -> float:
        """Return images a second."""
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.reset_peak_memory_stats()
            for _ in range(_WARM_UP):
                self._step()
        self._wait()
        start = self._clock()
        for _ in range(self._steps):
            self._step()
        self._wait()
        rate = self._steps * self._batch / (self._clock() - start)
        if cuda:
            self.about["memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
            self._release()
        return rate


def _settings(case: Case) -> tuple[Any, Any, str]:
    """Return config, network on its device, and device."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    if hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    config = config_of(case)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    arguments = dict(case.peer_arguments)
    if case.peer.startswith("vit"):
        arguments.setdefault("img_size", config.data.image_size)
    model = peer.create(case.peer, classes=len(classes_of(config)), **arguments)
    return config, model.to(device).to(memory_format=torch.channels_last), device


def _compiled(function: Callable, mode: str) -> Callable:
    return torch.compile(function) if mode == "compile" else function


def _normaliser(config: Any, device: str) -> Callable[[Any], Any]:
    mean, std = (
        torch.tensor(config.model[name], device=device).view(1, 3, 1, 1) for name in ("mean", "std")
    )
    return lambda images: (images.float() / 255 - mean) / std


def training(case: Case, mode: str, steps: int) -> Measured:
    """Return a measurement of training steps: AdamW, bf16 autocast, channels_last.

    Args:
      case: of `cases.FULL_SIZE`, or another.
      mode: "eager" or "compile".
      steps: per measurement.

    Raises:
      UserError: the peer cannot be made.
    """
    config, model, device = _settings(case)
    low, side = config.model.dtype == "bfloat16", config.data.image_size
    images = torch.randint(0, 256, (config.batch_size, 3, side, side), dtype=torch.uint8)
    images = images.to(device).to(memory_format=torch.channels_last)
    model.train()
    peer.freeze(model, tuple(case.freeze))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01, fused=True)
    normalise = _normaliser(config, device)
    count = len(images)
    labels = torch.randint(0, len(classes_of(config)), (count,), device=device)
    affect = torch.rand(count, 2, device=device) * 2 - 1

    def loss_of(images: Any, labels: Any, affect: Any) -> Any:
        inputs = normalise(images)
        with torch.autocast(device, torch.bfloat16, enabled=low):
            outputs = model(inputs)
        return objective(outputs, labels, affect)

    # Normalisation and loss in the same program, as in ours.
    forward = _compiled(loss_of, mode)

    def step() -> None:
        loss = forward(images, labels, affect)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return Measured(step, count, steps, case.clock)


def engine(case: Case, mode: str) -> Engine:
    """Return the peer for predictions; its weights have the dtype of the case.

    Args:
      case, mode: as for `training`.
    """
    config, model, device = _settings(case)
    dtype = torch.bfloat16 if config.model.dtype == "bfloat16" else torch.float32
    model.eval().to(dtype)
    normalise = _normaliser(config, device)
    # Normalisation in the same program, as in ours.
    network = _compiled(lambda images: model(normalise(images).to(dtype)), mode)

    def place(images: np.ndarray) -> Any:
        # Pixels side by side are what PyTorch calls channels_last.
        return torch.from_numpy(images).to(device).permute(0, 3, 1, 2)

    @torch.inference_mode()
    def predict(images: Any) -> Any:
        return network(images)

    def wait(_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return Engine(place, predict, wait)


def objective(outputs: Any, labels: torch.Tensor, affect: torch.Tensor) -> torch.Tensor:
    """Return the loss: cross-entropy, and for EmoNet its terms for valence and arousal.

    Those are MSE, 1 - PCC and 1 - CCC with random weights (Toisoul et al., eq. 8 to 10).
    """
    if not isinstance(outputs, dict):
        return F.cross_entropy(outputs.float(), labels)
    weights = torch.rand(3, device=labels.device)
    total = F.cross_entropy(outputs["expression"].float(), labels)
    for i, name in enumerate(("valence", "arousal")):
        terms = torch.stack(_regression(outputs[name].float(), affect[:, i]))
        total = total + (weights * terms).sum() / weights.sum()
    return total


def _regression(x: torch.Tensor, y: torch.Tensor) -> Sequence[torch.Tensor]:
    a, b = x - x.mean(), y - y.mean()
    covariance, one, two = (a * b).mean(), a.square().mean(), b.square().mean()
    pcc = covariance / (one * two + 1e-8).sqrt()
    ccc = 2 * covariance / (one + two + (x.mean() - y.mean()).square() + 1e-8)
    return (x - y).square().mean(), 1 - pcc, 1 - ccc

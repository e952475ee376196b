"""Scores of crops from the network, in batches of one size, while other work goes on."""

import concurrent.futures
from collections.abc import Sequence

import numpy as np

from affect_jax.inference.predictor import Predictor
from affect_jax.metrics.calibration import average

Scores = dict[str, np.ndarray]


class FaceScorer:
    """Runs the network in a thread of its own.

    Every batch has the same size, filled with black images where there are fewer crops: one program
    is compiled, and the scores of a crop do not depend on the others, to the last bit. A model that
    relates images sees one at a time, for the same reason.

    Args:
      predictor: the model.
      batch_size: crops in a batch.
      flip: average with the mirror image: probabilities, valence and arousal.
      temperature: divisor of the logits; None: the one that is kept with the model.
      landmarks: whether to give landmarks; None: only if the model has nothing else.
    """

    def __init__(
        self,
        predictor: Predictor,
        batch_size: int,
        *,
        flip: bool = False,
        temperature: float | None = None,
        landmarks: bool | None = None,
    ):
        self.batch_size = 1 if predictor.relates_images else batch_size
        self._predictor, self._flip = predictor, flip
        self._temperature, self._landmarks = temperature, landmarks
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "network")

    def submit(self, crops: Sequence[np.ndarray]) -> "concurrent.futures.Future[list[Scores]]":
        """Return the scores that the crops, at most `batch_size`, will have.

        They are, of each crop, what the model has of `logits`, `primary`, `corrected` float64 [N],
        `valence`, `arousal` [] and `landmarks` [K, 2], as fractions of the crop.
        """
        return self._thread.submit(self._run, crops)

    def close(self) -> None:
        """End the thread once it has done what it does now."""
        self._thread.shutdown(cancel_futures=True)

    def _run(self, crops: Sequence[np.ndarray]) -> list[Scores]:
        batch = np.zeros((self.batch_size, *crops[0].shape), np.uint8)
        batch[: len(crops)] = crops
        outputs = self._scores(batch)
        if self._flip:
            mirrored = self._scores(np.ascontiguousarray(batch[:, :, ::-1]))
            outputs |= _averaged(outputs, mirrored)
        return [{name: v[i] for name, v in outputs.items()} for i in range(len(crops))]

    def _scores(self, batch: np.ndarray) -> Scores:
        found = self._predictor.scores(
            batch, landmarks=self._landmarks, temperature=self._temperature
        )
        return {name: np.asarray(values, np.float64) for name, values in found.items()}


def _averaged(outputs: Scores, mirrored: Scores) -> Scores:
    """Return means over an image and its mirror image; landmarks stay as they are."""
    means: Scores = {
        name: (outputs[name] + mirrored[name]) / 2
        for name in ("primary", "corrected")
        if name in outputs
    }
    for name in ("valence", "arousal"):
        if name in outputs:
            means[name] = (outputs[name] + mirrored[name]) / 2
    if "logits" in outputs:
        means["logits"] = average(outputs["logits"], mirrored["logits"])
    return means

"""Average of the outputs of past video frames, as EmoFAN does at test time."""

import numpy as np

# Weights of the last five outputs, the oldest first (Toisoul et al. 2021).
WEIGHTS = (0.1, 0.1, 0.15, 0.25, 0.4)
SMOOTHED = ("logits", "valence", "arousal")


def smooth(
    values: np.ndarray, tracks: np.ndarray, weights: tuple[float, ...] = WEIGHTS
) -> np.ndarray:
    """Return the weighted mean of every output and those before it in its track.

    Only past frames are used, as in a live video. At the start of a track, the weights of the
    existing frames are divided by their sum.

    Args:
      values: [n, ...]; frames of one track in the order of time, tracks in any order or mixed.
      tracks: int [n], the video of each row; a row of track -1 belongs to no video and is kept.
      weights: of the last outputs, the oldest first.

    Returns:
      float64 [n, ...].
    """
    values, tracks = np.asarray(values, np.float64), np.asarray(tracks)
    order = np.argsort(tracks, kind="stable")
    sorted_values, sorted_tracks = values[order], tracks[order]
    place = np.arange(len(order))
    first = np.searchsorted(sorted_tracks, sorted_tracks)
    before = place - first  # frames of the same track
    total, norm = np.zeros_like(sorted_values), np.zeros(len(order))
    for lag, weight in enumerate(reversed(weights)):
        there = np.flatnonzero(before >= lag)
        total[there] += weight * sorted_values[there - lag]
        norm[there] += weight
    smoothed = np.empty_like(values)
    smoothed[order] = total / norm.reshape(-1, *[1] * (values.ndim - 1))
    smoothed[tracks < 0] = values[tracks < 0]
    return smoothed


def smooth_predictions(
    predictions: dict[str, np.ndarray], tracks: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the predictions of a split with logits, valence and arousal smoothed.

    Args:
      predictions: per-example arrays with `index`, the position in the source, ascending; frames
        that could not be read may be absent.
      tracks: int [N] of all records of the source, in the order of time.
    """
    own = np.asarray(tracks)[predictions["index"]]
    return predictions | {k: smooth(predictions[k], own) for k in SMOOTHED if k in predictions}

"""Metrics of a whole data set from sufficient statistics, in float64 on the host.

Every accumulator takes batches of any size in any order (`update`), joins with the accumulator of
another part of the data (`merge`: another process, another split) and gives its figures at the end
(`compute`): the result does not depend on how the data were cut, up to float64 rounding. `state`
and `load_state` turn an accumulator into one float64 vector and back, for exchange between
processes. Masked examples and missing labels (NaN, -1) count nowhere; a figure without a single
labelled example is left out of `compute`; a NaN prediction makes the figures NaN, never better.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

ECE_BINS = 15
# Histogram of the normalised mean error: 300 bins of 0.001 and one for all that is larger.
NME_BIN_WIDTH = 0.001
NME_BINS = 300
# Where cumulative error curves are cut: by inter-ocular distance as on 300-W (Sagonas et al. 2016),
# by the box as Bulat and Tzimiropoulos (2017) do. Errors beyond are failures.
NME_LIMITS = {"nme": 0.08, "nme_box": 0.07}
# Outer corners of the right and the left eye in iBUG order.
OUTER_EYE_CORNERS = (36, 45)


def _unmasked(mask: np.ndarray | None, count: int) -> np.ndarray:
    return np.ones(count, bool) if mask is None else np.asarray(mask, bool)


class PairStatistics(NamedTuple):
    """Sufficient statistics of paired numbers (truth y, prediction p).

    Means are kept relative to an origin (the first pair seen), where they do not lose digits to a
    large common offset, and centred sums are merged by the formula of Chan, Golub and LeVeque
    (1979). The extremes tell constant data from data of a tiny spread, whatever rounding does.
    """

    count: float = 0.0
    equal_signs: float = 0.0
    squared_error: float = 0.0
    origin_y: float = 0.0
    origin_p: float = 0.0
    mean_y: float = 0.0
    mean_p: float = 0.0
    centred_yy: float = 0.0
    centred_pp: float = 0.0
    centred_yp: float = 0.0
    min_y: float = np.inf
    max_y: float = -np.inf
    min_p: float = np.inf
    max_p: float = -np.inf

    @classmethod
    def of(cls, y: np.ndarray, p: np.ndarray) -> PairStatistics:
        """Statistics of float64 arrays [n], without a NaN in y."""
        n = len(y)
        if n == 0:
            return cls()
        # A prediction that is not finite makes NaN of all figures; that needs no warning here.
        with np.errstate(invalid="ignore", over="ignore"):
            dy, dp = y - y[0], p - p[0]
            mean_y, mean_p = dy.mean(), dp.mean()
            dy, dp = dy - mean_y, dp - mean_p
            # What the rounded means leave over is taken out again.
            rest_y, rest_p = dy.sum(), dp.sum()
            return cls(
                count=float(n),
                equal_signs=float(np.sum(np.sign(y) == np.sign(p))),
                squared_error=float(np.sum((y - p) ** 2)),
                origin_y=float(y[0]),
                origin_p=float(p[0]),
                mean_y=float(mean_y),
                mean_p=float(mean_p),
                centred_yy=float(np.sum(dy * dy) - rest_y * rest_y / n),
                centred_pp=float(np.sum(dp * dp) - rest_p * rest_p / n),
                centred_yp=float(np.sum(dy * dp) - rest_y * rest_p / n),
                min_y=float(y.min()),
                max_y=float(y.max()),
                min_p=float(p.min()),
                max_p=float(p.max()),
            )

    def merge(self, other: PairStatistics) -> PairStatistics:
        """Statistics of both parts together."""
        if other.count == 0:
            return self
        if self.count == 0:
            return other
        n = self.count + other.count
        # Step of the mean from this part to the other.
        step_y = (other.origin_y - self.origin_y) + (other.mean_y - self.mean_y)
        step_p = (other.origin_p - self.origin_p) + (other.mean_p - self.mean_p)
        share = other.count / n
        weight = self.count * share
        return PairStatistics(
            count=n,
            equal_signs=self.equal_signs + other.equal_signs,
            squared_error=self.squared_error + other.squared_error,
            origin_y=self.origin_y,
            origin_p=self.origin_p,
            mean_y=self.mean_y + step_y * share,
            mean_p=self.mean_p + step_p * share,
            centred_yy=self.centred_yy + other.centred_yy + step_y * step_y * weight,
            centred_pp=self.centred_pp + other.centred_pp + step_p * step_p * weight,
            centred_yp=self.centred_yp + other.centred_yp + step_y * step_p * weight,
            min_y=float(np.minimum(self.min_y, other.min_y)),
            max_y=float(np.maximum(self.max_y, other.max_y)),
            min_p=float(np.minimum(self.min_p, other.min_p)),
            max_p=float(np.maximum(self.max_p, other.max_p)),
        )

    def compute(self) -> dict[str, float]:
        """rmse, sagr, pcc and ccc; empty without a pair.

        PCC and CCC are 0 when either side is constant (0 / 0 in their definition).
        """
        if self.count == 0:
            return {}
        n = self.count
        rmse, sagr = np.sqrt(self.squared_error / n), self.equal_signs / n
        spread = np.sqrt(self.centred_yy) * np.sqrt(self.centred_pp)
        constant = self.min_y == self.max_y or self.min_p == self.max_p
        if constant or spread == 0:  # or so nearly constant that the squares underflow
            return {"rmse": float(rmse), "sagr": sagr, "pcc": 0.0, "ccc": 0.0}
        bias = (self.origin_y - self.origin_p) + (self.mean_y - self.mean_p)
        ccc = 2 * self.centred_yp / (self.centred_yy + self.centred_pp + n * bias * bias)
        pcc = np.clip(self.centred_yp / spread, -1.0, 1.0)
        return {"rmse": float(rmse), "sagr": sagr, "pcc": float(pcc), "ccc": float(ccc)}


class RegressionStatistics:
    """RMSE, SAGR, PCC and CCC of each of several dimensions, with a mask per dimension.

    Figures are named `<dimension>_rmse`, `_sagr`, `_pcc`, `_ccc`.
    """

    def __init__(self, dimensions: Sequence[str] = ("valence", "arousal")):
        self.dimensions = tuple(dimensions)
        self.pairs = [PairStatistics() for _ in self.dimensions]

    def update(
        self, predictions: np.ndarray, targets: np.ndarray, mask: np.ndarray | None = None
    ) -> Self:
        """Adds predictions [B, D] and targets [B, D] (NaN: no label); mask bool [B]."""
        predictions = np.asarray(predictions, np.float64)
        targets = np.asarray(targets, np.float64)
        mask = _unmasked(mask, len(targets))
        for d in range(len(self.dimensions)):
            keep = mask & np.isfinite(targets[:, d])
            batch = PairStatistics.of(targets[keep, d], predictions[keep, d])
            self.pairs[d] = self.pairs[d].merge(batch)
        return self

    def merge(self, other: RegressionStatistics) -> Self:
        """Adds what `other` has seen."""
        self.pairs = [a.merge(b) for a, b in zip(self.pairs, other.pairs, strict=True)]
        return self

    def compute(self) -> dict[str, float]:
        """The figures of the dimensions that have labels."""
        return {
            f"{name}_{figure}": value
            for name, pair in zip(self.dimensions, self.pairs, strict=True)
            for figure, value in pair.compute().items()
        }

    def state(self) -> np.ndarray:
        """Everything, as float64 [D * 14]."""
        return np.asarray(self.pairs, np.float64).reshape(-1)

    def load_state(self, state: np.ndarray) -> Self:
        """Takes over what `state` returned."""
        rows = np.reshape(state, (len(self.dimensions), -1))
        self.pairs = [PairStatistics(*map(float, row)) for row in rows]
        return self


class ClassificationStatistics:
    """Confusion matrix, negative log-likelihood and calibration of a classifier.

    Args:
        num_classes: N.
        class_names: names for `recall_<name>`; default: the class numbers.
        min_count: classes with fewer true examples are left out of `balanced_accuracy` and
            `f1_macro` (their examples still count as false positives of the classes they are
            taken for). Classes without any true example always are. `classes_counted` says how
            many stay.
    Raises:
        ValueError: another number of names than classes.
    """

    def __init__(
        self, num_classes: int, class_names: Sequence[str] | None = None, min_count: int = 1
    ):
        self.num_classes = num_classes
        self.class_names = tuple(map(str, class_names or range(num_classes)))
        if len(self.class_names) != num_classes:
            raise ValueError(f"{num_classes} classes but {len(self.class_names)} class names")
        self.min_count = min_count
        # The last column counts examples whose logits are NaN: they are right for no class.
        self._counts = np.zeros((num_classes, num_classes + 1))
        # Of each confidence bin: examples, sum of confidences, right predictions.
        self._bins = np.zeros((ECE_BINS, 3))
        self._nll = 0.0

    @property
    def confusion(self) -> np.ndarray:
        """int64 [N, N], rows are true classes, columns predicted ones."""
        return self._counts[:, : self.num_classes].astype(np.int64)

    @property
    def counted(self) -> np.ndarray:
        """bool [N], the classes that enter `balanced_accuracy` and `f1_macro`."""
        return self._counts.sum(1) >= max(self.min_count, 1)

    def update(
        self, logits: np.ndarray, labels: np.ndarray, mask: np.ndarray | None = None
    ) -> Self:
        """Adds logits (or log-probabilities) [B, N] and labels int [B] (-1: no label).

        Raises:
            ValueError: a label that is no class.
        """
        labels = np.asarray(labels)
        keep = _unmasked(mask, len(labels)) & (labels >= 0)
        labels, logits = labels[keep], np.asarray(logits, np.float64)[keep]
        if labels.size == 0:
            return self
        if labels.max() >= self.num_classes:
            raise ValueError(
                f"expression label {labels.max()} but there are {self.num_classes} classes "
                f"(0 to {self.num_classes - 1})"
            )
        with np.errstate(invalid="ignore"):
            shifted = logits - logits.max(1, keepdims=True)
            log_probs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        guess = log_probs.argmax(1)
        guess[np.isnan(log_probs).any(1)] = self.num_classes
        np.add.at(self._counts, (labels, guess), 1)
        self._nll -= log_probs[np.arange(len(labels)), labels].sum()
        confidence = np.exp(log_probs.max(1))
        # Bins are open below and closed above, so that a confidence of 1 is in the last one.
        bins = np.ceil(np.nan_to_num(confidence) * ECE_BINS).astype(int) - 1
        rows = np.stack([np.ones(len(labels)), confidence, guess == labels], axis=1)
        np.add.at(self._bins, np.clip(bins, 0, ECE_BINS - 1), rows)
        return self

    def merge(self, other: ClassificationStatistics) -> Self:
        """Adds what `other` has seen."""
        self._counts = self._counts + other._counts
        self._bins = self._bins + other._bins
        self._nll = self._nll + other._nll
        return self

    def compute(self) -> dict[str, float]:
        """accuracy, balanced_accuracy (mean recall), precision_macro, f1_macro, nll, ece,
        classes_counted and `recall_<name>` of every class that has examples; empty without a
        labelled example.
        """
        total = self._counts.sum()
        if total == 0:
            return {}
        hits = np.diag(self._counts)
        true, predicted = self._counts.sum(1), self._counts[:, :-1].sum(0)
        present, counted = true > 0, self.counted
        recall = hits / np.maximum(true, 1)
        f1 = 2 * hits / np.maximum(true + predicted, 1)
        figures = {
            "accuracy": hits.sum() / total,
            "nll": self._nll / total,
            "ece": np.abs(self._bins[:, 2] - self._bins[:, 1]).sum() / total,
            "classes_counted": counted.sum(),
        }
        if counted.any():
            figures["balanced_accuracy"] = recall[counted].mean()
            # A class that is never predicted has a precision of 0.
            figures["precision_macro"] = (hits / np.maximum(predicted, 1))[counted].mean()
            figures["f1_macro"] = f1[counted].mean()
        for c in np.flatnonzero(present):
            figures[f"recall_{self.class_names[c]}"] = recall[c]
        return {name: float(value) for name, value in figures.items()}

    def reliability(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Examples, mean confidence and accuracy of the 15 bins (NaN where empty), each [15]."""
        count = self._bins[:, 0]
        mean = self._bins[:, 1:] / np.where(count > 0, count, np.nan)[:, None]
        return count, mean[:, 0], mean[:, 1]

    def state(self) -> np.ndarray:
        """Everything, as a float64 vector."""
        return np.concatenate([self._counts.ravel(), self._bins.ravel(), [self._nll]])

    def load_state(self, state: np.ndarray) -> Self:
        """Takes over what `state` returned."""
        cells = self._counts.size
        self._counts = np.array(state[:cells]).reshape(self._counts.shape)
        self._bins = np.array(state[cells:-1]).reshape(self._bins.shape)
        self._nll = float(state[-1])
        return self


def landmark_errors(predictions: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """`nme` and `nme_box` of each example (see `LandmarkStatistics`), float64 [B].

    An example that has no such error is -inf; one with a prediction that is no number is NaN.

    Args:
        predictions, targets: [B, 68, 2] in the same pixels; NaN in the targets: missing.
    """
    targets = np.asarray(targets, np.float64)
    seen = np.isfinite(targets).all(2)
    known = np.where(seen[..., None], targets, 0.0)
    distances = np.linalg.norm(np.asarray(predictions, np.float64) - known, axis=2)
    error = np.where(seen, distances, 0.0).sum(1) / np.maximum(seen.sum(1), 1)
    right, left = OUTER_EYE_CORNERS
    eyes = np.where(
        seen[:, right] & seen[:, left],
        np.linalg.norm(known[:, right] - known[:, left], axis=1),
        0.0,
    )
    # Examples without any landmark: a box of one point, whose area is 0.
    low = np.where(seen[..., None], targets, np.inf).min(1)
    high = np.where(seen[..., None], targets, -np.inf).max(1)
    box = np.sqrt(np.prod(np.where(np.isfinite(low), high - low, 0.0), axis=1))
    return {
        figure: np.where(size > 0, error / np.where(size > 0, size, 1.0), -np.inf)
        for figure, size in (("nme", eyes), ("nme_box", box))
    }


class LandmarkStatistics:
    """Normalised mean error of 68 landmarks, and what follows from its distribution.

    `nme` is the mean distance between true and predicted points divided by the distance between
    the true outer eye corners, `nme_box` by the square root of the area of the box around the true
    points; both are means over the examples. Of each, `_auc` is the area under the cumulative error
    curve up to `NME_LIMITS`, divided by that limit (1 is perfect), and `_failures` the share of
    examples beyond it. An example without eye corners, or with a distance or area of 0, has no such
    error. A missing landmark (NaN) is left out of its example.
    """

    FIGURES = ("nme", "nme_box")

    def __init__(self):
        # Of each figure: examples, sum of errors, sum of areas, failures.
        self._sums = np.zeros((2, 4))
        self._histogram = np.zeros((2, NME_BINS + 1))

    def update(
        self, predictions: np.ndarray, targets: np.ndarray, mask: np.ndarray | None = None
    ) -> Self:
        """Adds predictions and targets [B, 68, 2] in the same pixels; mask bool [B]."""
        keep = _unmasked(mask, len(targets))
        return self.add(landmark_errors(np.asarray(predictions)[keep], np.asarray(targets)[keep]))

    def add(self, normalised: dict[str, np.ndarray]) -> Self:
        """Adds errors [B] by figure, as `landmark_errors` gives them."""
        for i, figure in enumerate(self.FIGURES):
            errors = np.asarray(normalised[figure], np.float64)
            errors = errors[~np.isneginf(errors)]
            limit = NME_LIMITS[figure]
            # The area under one example's curve, a step at its error.
            areas = np.clip(1 - errors / limit, 0, None)
            failures = np.count_nonzero(~(errors <= limit))
            self._sums[i] += len(errors), errors.sum(), areas.sum(), failures
            # NaN errors go where the largest ones are.
            bins = np.minimum(np.nan_to_num(errors / NME_BIN_WIDTH, nan=NME_BINS), NME_BINS)
            np.add.at(self._histogram[i], bins.astype(int), 1)
        return self

    def merge(self, other: LandmarkStatistics) -> Self:
        """Adds what `other` has seen."""
        self._sums = self._sums + other._sums
        self._histogram = self._histogram + other._histogram
        return self

    def compute(self) -> dict[str, float]:
        """nme, nme_auc, nme_failures, and the same of nme_box, as fractions (0.05 is 5 %)."""
        return {
            name + suffix: float(total / count)
            for name, (count, *totals) in zip(self.FIGURES, self._sums, strict=True)
            for suffix, total in zip(("", "_auc", "_failures"), totals, strict=True)
            if count
        }

    def curve(self, figure: str = "nme") -> tuple[np.ndarray, np.ndarray]:
        """Cumulative error curve: error limits [300] and the fraction of examples below each."""
        histogram = self._histogram[self.FIGURES.index(figure)]
        limits = NME_BIN_WIDTH * np.arange(1, NME_BINS + 1)
        return limits, np.cumsum(histogram[:-1]) / max(histogram.sum(), 1)

    def state(self) -> np.ndarray:
        """Everything, as a float64 vector."""
        return np.concatenate([self._sums.ravel(), self._histogram.ravel()])

    def load_state(self, state: np.ndarray) -> Self:
        """Takes over what `state` returned."""
        self._sums = np.array(state[:8]).reshape(2, 4)
        self._histogram = np.array(state[8:]).reshape(2, -1)
        return self


class MetricSet:
    """The metrics that a data set has labels for.

    Args:
        has: label fields of the data set, of "expression", "valence_arousal", "landmarks".
        num_classes, class_names, min_count: as in `ClassificationStatistics`.
        extra: further accumulators, whose `update` takes the arguments of this one's.

    The accumulators are attributes, None where the data set has no such labels:
    `classification`, `regression`, `landmarks`.
    """

    def __init__(
        self,
        has: Collection[str],
        num_classes: int,
        class_names: Sequence[str] | None = None,
        min_count: int = 1,
        extra: Sequence[Any] = (),
    ):
        self.extra = list(extra)
        self.classification = (
            ClassificationStatistics(num_classes, class_names, min_count)
            if "expression" in has
            else None
        )
        self.regression = RegressionStatistics() if "valence_arousal" in has else None
        self.landmarks = LandmarkStatistics() if "landmarks" in has else None

    @property
    def parts(self) -> list[Any]:
        """The accumulators in use, in a fixed order."""
        return [
            part
            for part in (self.classification, self.regression, self.landmarks, *self.extra)
            if part is not None
        ]

    def update(self, outputs: dict[str, np.ndarray], batch: dict[str, np.ndarray]) -> Self:
        """Adds a batch, in host arrays.

        Args:
            outputs: `logits` [B, N], `valence` and `arousal` [B], `landmarks` [B, 68, 2] in pixels
                of the batch's images; what a model does not give is not measured.
            batch: `expression` [B], `valence_arousal` [B, 2], `landmarks` [B, 68, 2] and `mask`
                [B] (False: padding).
        """
        mask = batch.get("mask")
        if self.classification is not None and "logits" in outputs:
            self.classification.update(outputs["logits"], batch["expression"], mask)
        if self.regression is not None and "valence" in outputs:
            predictions = np.stack([outputs["valence"], outputs["arousal"]], axis=1)
            self.regression.update(predictions, batch["valence_arousal"], mask)
        if self.landmarks is not None and "landmarks" in outputs:
            self.landmarks.update(outputs["landmarks"], batch["landmarks"], mask)
        for part in self.extra:
            part.update(outputs, batch)
        return self

    def merge(self, other: MetricSet) -> Self:
        """Adds what `other`, made for the same labels, has seen."""
        for mine, theirs in zip(self.parts, other.parts, strict=True):
            mine.merge(theirs)
        return self

    def compute(self) -> dict[str, float]:
        """All figures, by name."""
        return {name: value for part in self.parts for name, value in part.compute().items()}

    def to_array(self) -> np.ndarray:
        """Everything, as one float64 vector. Processes exchange these and `merge` what they make
        of them; neither a sum of the vectors nor their passage through float32 would be right.
        """
        return np.concatenate([np.zeros(0), *(part.state() for part in self.parts)])

    def from_array(self, array: np.ndarray) -> Self:
        """A new set, made like this one, of what the `to_array` of another set returned.

        Raises:
            ValueError: the other set was made for other labels.
        """
        made = copy.deepcopy(self)
        sizes = [part.state().size for part in made.parts]
        if np.shape(array) != (sum(sizes),):
            raise ValueError(
                f"the state of these metrics has {sum(sizes)} numbers, not {np.size(array)}: "
                "the other set was made for other labels or classes"
            )
        ends = np.cumsum(sizes)
        for part, start, end in zip(made.parts, ends - np.array(sizes), ends, strict=True):
            part.load_state(array[start:end])
        return made

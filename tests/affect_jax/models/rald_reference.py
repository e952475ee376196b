"""A slow NumPy transcription of RALD, one function per equation.

Source: Liu et al., "Fine-Grained Facial Expression Recognition Algorithm Based on
Relationship-Awareness and Label Disambiguation", Acta Electronica Sinica 52 (10), 2024. It is
written from the paper, and from the project's decisions where the paper is silent. It imports
nothing of the project, so that it can judge it. All values are float64. Nothing here is
differentiated; the distributions of equation 18 are constants of the loss.

Sizes: B images, M compared images, D image features, N fine classes, C labels (fine, then
coarse), L label features, h heads of d columns. Head a owns the columns a * d to (a + 1) * d - 1 of
a projection, and the rows of the same numbers of W_MSA.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Parameters = Mapping[str, Any]

# Modules of each row of Table 3. Row g follows the table, which leaves NNLDL out.
ROWS: dict[str, frozenset[str]] = {
    "a": frozenset(),
    "b": frozenset({"itrr"}),
    "c": frozenset({"itrr", "nnldl"}),
    "d": frozenset({"lgifo"}),
    "e": frozenset({"itrr", "lgifo"}),
    "f": frozenset({"hlrr", "lgifo"}),
    "g": frozenset({"itrr", "hlrr", "lgifo"}),
    "all": frozenset({"itrr", "hlrr", "lgifo", "nnldl"}),
}


class Compared(NamedTuple):
    """The images that each image is compared with."""

    features: Array  # [B, M, D]
    valid: Mask  # [B, M]
    own: npt.NDArray[np.int64]  # [B], the column of the image itself


class Outputs(NamedTuple):
    """What a row of Table 3 predicts."""

    logits: Array  # [B, N]
    predictions: Array  # [B, N], P
    relations: Array | None  # [B, M], softmax(R_v) averaged over heads; None without ITRR


class Losses(NamedTuple):
    """The terms of equation 21."""

    total: float
    cross_entropy: float
    distribution: float  # L_KL, before its weight


# ---- Parts that several equations share


def softmax(scores: Array, allowed: Mask | None = None) -> Array:
    """Return the softmax of the allowed scores [M]: 0 elsewhere, 0 all over if none is."""
    weights = np.zeros(len(scores))
    columns = [j for j in range(len(scores)) if allowed is None or allowed[j]]
    if not columns:
        return weights
    highest = max(scores[j] for j in columns)
    total = sum(math.exp(scores[j] - highest) for j in columns)
    for j in columns:
        weights[j] = math.exp(scores[j] - highest) / total
    return weights


def log_softmax(scores: Array) -> Array:
    """Return the logarithm of the softmax of scores [N], without a floor."""
    highest = scores.max()
    return scores - highest - math.log(sum(math.exp(score - highest) for score in scores))


def softplus(value: float) -> float:
    """Return log(1 + exp(value))."""
    return max(value, 0.0) + math.log1p(math.exp(-abs(value)))


def gelu(value: float) -> float:
    """Return value * Phi(value), the exact GELU."""
    return 0.5 * value * (1.0 + math.erf(value / math.sqrt(2.0)))


def feed_forward(inputs: Array, params: Parameters) -> Array:
    """Return FFN(inputs) [rows, width]: two layers with a GELU between them."""
    hidden = inputs @ params["fc1"] + params["fc1_bias"]
    hidden = np.array([[gelu(value) for value in row] for row in hidden])
    return hidden @ params["fc2"] + params["fc2_bias"]


def layer_norm(inputs: Array, scale: Array, bias: Array, eps: float) -> Array:
    """Return LayerNorm(inputs) [rows, width], with the biased variance of each row."""
    outputs = np.empty_like(inputs)
    for i, row in enumerate(inputs):
        mean = sum(row) / len(row)
        variance = sum((value - mean) ** 2 for value in row) / len(row)
        outputs[i] = (row - mean) / math.sqrt(variance + eps) * scale + bias
    return outputs


def add_and_norm(attended: Array, params: Parameters, eps: float) -> Array:
    """Return norm(M + FFN(M)), the shape of equations 7, 12 and 17."""
    total = attended + feed_forward(attended, params)
    return layer_norm(total, params["norm_scale"], params["norm_bias"], eps)


def of_head(projected: Array, head: int, heads: int) -> Array:
    """Return the columns [..., d] of one head."""
    width = projected.shape[-1] // heads
    return projected[..., head * width : (head + 1) * width]


def concatenate_heads(attended: Array) -> Array:
    """Return [rows, h * d] of [h, rows, d], first head first."""
    return np.concatenate(list(attended), axis=-1)


# ---- Equations 1 and 2: what enters


def image_features(encoder: Callable[[Array], Array], images: Array) -> Array:
    """Return F = F_v(I), equation 1: one row [D] per image."""
    return np.stack([encoder(image) for image in images])


def phrase_vector(word_vectors: Array) -> Array:
    """Return the vector [L] of a label of several words [words, L], their mean."""
    return np.mean(word_vectors, axis=0)


def label_features(fine_vectors: Array, coarse_of: Sequence[int] | None = None) -> Array:
    """Return S = F_s(V) [C, L], equation 2: fine labels, then coarse ones.

    Section 4.2: a coarse label has the mean vector of its fine labels, as names repeat. S is fixed.
    `coarse_of` holds the coarse node of each fine class; without it there are no coarse labels.
    """
    rows = list(fine_vectors)
    for coarse in range(0 if coarse_of is None else max(coarse_of) + 1):
        members = [fine_vectors[i] for i, parent in enumerate(coarse_of or ()) if parent == coarse]
        rows.append(np.mean(members, axis=0))
    return np.stack(rows)


# ---- Equations 3 to 7: ITRR


def compared_images(
    features: Array,
    context: str = "batch",
    valid: Mask | None = None,
    bank: Array | None = None,
    bank_valid: Mask | None = None,
) -> Compared:
    """Return the keys of each image in a context.

    `batch`: all images of the batch. `self`: the image alone. `bank`: the bank [M, D], then the
    image itself as the last column. An invalid image has no valid key: it does not attend.
    """
    count = len(features)
    valid = np.ones(count, bool) if valid is None else valid
    keys, allowed, own = [], [], []
    for i in range(count):
        if context == "batch":
            rows, row_valid, place = list(features), list(valid), i
        elif context == "self":
            rows, row_valid, place = [features[i]], [valid[i]], 0
        elif context == "bank":
            assert bank is not None
            slots = [True] * len(bank) if bank_valid is None else list(bank_valid)
            rows, row_valid, place = [*bank, features[i]], [*slots, valid[i]], len(bank)
        else:
            raise ValueError(f"context {context!r}: give 'batch', 'self' or 'bank'.")
        keys.append(np.stack(rows))
        allowed.append([bool(valid[i] and slot) for slot in row_valid])
        own.append(place)
    return Compared(np.stack(keys), np.array(allowed, bool), np.array(own))


def image_projections(
    features: Array, compared: Array, params: Parameters
) -> tuple[Array, Array, Array]:
    """Return Q_v [B, h * d], K_v and V_v [B, M, h * d], equation 3."""
    return features @ params["query"], compared @ params["key"], compared @ params["value"]


def image_relations(queries: Array, keys: Array, heads: int, scale: float) -> Array:
    """Return R_v = lambda Q_v K_v^T for each head [h, B, M], equation 4."""
    relations = np.empty((heads, *keys.shape[:2]))
    for head in range(heads):
        for i in range(keys.shape[0]):
            for j in range(keys.shape[1]):
                query, key = of_head(queries[i], head, heads), of_head(keys[i, j], head, heads)
                relations[head, i, j] = scale * sum(query * key)
    return relations


def image_weights(relations: Array, valid: Mask) -> Array:
    """Return softmax(R_v) [h, B, M] over the valid images, inside equation 5."""
    return np.stack(
        [np.stack([softmax(head[i], valid[i]) for i in range(len(valid))]) for head in relations]
    )


def image_attention(weights: Array, values: Array) -> Array:
    """Return F_SA = softmax(R_v) V_v for each head [h, B, d], equation 5.

    A key of weight 0 is skipped, so that an invalid image may hold NaN.
    """
    heads, count, compared = weights.shape
    attended = np.zeros((heads, count, values.shape[-1] // heads))
    for head in range(heads):
        for i in range(count):
            for j in range(compared):
                if weights[head, i, j] > 0:
                    attended[head, i] += weights[head, i, j] * of_head(values[i, j], head, heads)
    return attended


def image_heads(attended: Array, params: Parameters) -> Array:
    """Return F_MSA = concat(F_SA^1, ..., F_SA^h) W_MSA [B, D], equation 6."""
    return concatenate_heads(attended) @ params["out"]


def related_images(
    attended: Array, features: Array, params: Parameters, residual: bool, eps: float
) -> Array:
    """Return F~ = norm(F_MSA + FFN(F_MSA)) [B, D], equation 7.

    With `residual`, F_MSA + F takes the place of F_MSA: an option that the paper does not print.
    """
    return add_and_norm(attended + features if residual else attended, params, eps)


def itrr(
    features: Array,
    compared: Compared,
    params: Parameters,
    *,
    heads: int,
    scale: float = 0.125,
    residual: bool = False,
    eps: float = 1e-5,
) -> tuple[Array, Array]:
    """Return F~ [B, D] and softmax(R_v) averaged over heads [B, M], equations 3 to 7."""
    queries, keys, values = image_projections(features, compared.features, params)
    relations = image_relations(queries, keys, heads, scale)
    weights = image_weights(relations, compared.valid)
    attended = image_heads(image_attention(weights, values), params)
    related = related_images(attended, features, params, residual, eps)
    return related, np.mean(weights, axis=0)


# ---- Equations 8 to 12: HLRR


def label_distances(coarse_of: Sequence[int], sigma: float = 500.0) -> Array:
    """Return xi [C, C], equation 9: 0 itself, 1 parent and child, sigma all others."""
    fine = len(coarse_of)
    count = fine + max(coarse_of) + 1
    distances = np.full((count, count), sigma)
    for node in range(count):
        distances[node, node] = 0.0
    for child, coarse in enumerate(coarse_of):
        distances[child, fine + coarse] = 1.0
        distances[fine + coarse, child] = 1.0
    return distances


def distance_biases(beta: Array) -> tuple[float, float, float]:
    """Return b_0 > b_1 > b_sigma of three free scalars, for equation 8."""
    itself = float(beta[0])
    relative = itself - softplus(float(beta[1]))
    return itself, relative, relative - softplus(float(beta[2]))


def label_biases(distances: Array, beta: Array) -> Array:
    """Return b_xi(i, j) [C, C], the same for all heads, for equation 8."""
    itself, relative, other = distance_biases(beta)
    named = {0.0: itself, 1.0: relative}
    return np.array([[named.get(float(xi), other) for xi in row] for row in distances])


def label_relations(
    labels: Array, params: Parameters, biases: Array | None, heads: int, scale: float
) -> Array:
    """Return R_s = lambda (h_i W_Q) (h_j W_K)^T + b_xi(i, j) [h, C, C], equation 8.

    The equation prints no lambda, its text does. The bias is not scaled. None: RALD-L.
    """
    queries, keys = labels @ params["query"], labels @ params["key"]
    count = len(labels)
    relations = np.empty((heads, count, count))
    for head in range(heads):
        for i in range(count):
            for j in range(count):
                query, key = of_head(queries[i], head, heads), of_head(keys[j], head, heads)
                bias = 0.0 if biases is None else biases[i, j]
                relations[head, i, j] = scale * sum(query * key) + bias
    return relations


def label_attention(relations: Array, values: Array) -> Array:
    """Return S_SA = softmax(R_s) V_s for each head [h, C, d], equation 10."""
    heads = len(relations)
    return np.stack(
        [
            np.stack([softmax(row) @ of_head(values, head, heads) for row in relations[head]])
            for head in range(heads)
        ]
    )


def label_heads(attended: Array, params: Parameters) -> Array:
    """Return S_MSA = concat(S_SA^1, ..., S_SA^h) W_MSA [C, L], equation 11."""
    return concatenate_heads(attended) @ params["out"]


def related_labels(attended: Array, params: Parameters, eps: float) -> Array:
    """Return S~ = norm(S_MSA + FFN(S_MSA)) [C, L], equation 12."""
    return add_and_norm(attended, params, eps)


def hlrr(
    labels: Array,
    params: Parameters,
    *,
    heads: int,
    scale: float = 0.125,
    coarse_of: Sequence[int] | None = None,
    sigma: float = 500.0,
    eps: float = 1e-5,
) -> Array:
    """Return S~ [C, L], equations 8 to 12; without `coarse_of` no bias (RALD-L)."""
    biases = None
    if coarse_of is not None:
        biases = label_biases(label_distances(coarse_of, sigma), params["bias"])
    relations = label_relations(labels, params, biases, heads, scale)
    attended = label_attention(relations, labels @ params["value"])
    return related_labels(label_heads(attended, params), params, eps)


# ---- Equations 13 to 17: LGIFO


def guide_projections(
    features: Array, labels: Array, params: Parameters
) -> tuple[Array, Array, Array]:
    """Return Q~_v [B, h * d], K~_s [C, h * d] and V~_s = S~ [C, L], equation 13."""
    return features @ params["query"], labels @ params["key"], labels


def guide_relations(queries: Array, keys: Array, heads: int, scale: float) -> Array:
    """Return R_vs = lambda Q~_v K~_s^T for each head [h, B, C], equation 14."""
    relations = np.empty((heads, len(queries), len(keys)))
    for head in range(heads):
        for i in range(len(queries)):
            for j in range(len(keys)):
                query, key = of_head(queries[i], head, heads), of_head(keys[j], head, heads)
                relations[head, i, j] = scale * sum(query * key)
    return relations


def guide_attention(relations: Array, values: Array) -> Array:
    """Return X_SA = softmax(R_vs) V~_s [h, B, L], equation 15: V~_s whole for every head."""
    return np.stack([np.stack([softmax(row) @ values for row in head]) for head in relations])


def guide_heads(attended: Array, params: Parameters) -> Array:
    """Return X_MSA = concat(X_SA^1, ..., X_SA^h) W_MSA [B, D], equation 16."""
    return concatenate_heads(attended) @ params["out"]


def guided_images(attended: Array, params: Parameters, eps: float) -> Array:
    """Return F^ = norm(X_MSA + FFN(X_MSA)) [B, D], equation 17."""
    return add_and_norm(attended, params, eps)


def lgifo(
    features: Array,
    labels: Array,
    params: Parameters,
    *,
    heads: int,
    scale: float = 0.125,
    eps: float = 1e-5,
) -> Array:
    """Return F^ [B, D], equations 13 to 17."""
    queries, keys, values = guide_projections(features, labels, params)
    attended = guide_attention(guide_relations(queries, keys, heads, scale), values)
    return guided_images(guide_heads(attended, params), params, eps)


# ---- Fine head, and the rows of Table 3


def fine_head(features: Array, params: Parameters) -> tuple[Array, Array]:
    """Return the logits and their softmax P, both [B, N] (section 3.4)."""
    logits = features @ params["weight"] + params["bias"]
    return logits, np.stack([softmax(row) for row in logits])


def forward(
    row: str,
    features: Array,
    labels: Array | None,
    params: Mapping[str, Parameters],
    *,
    heads: int,
    scale: float = 0.125,
    coarse_of: Sequence[int] | None = None,
    sigma: float = 500.0,
    context: str = "batch",
    valid: Mask | None = None,
    bank: Array | None = None,
    bank_valid: Mask | None = None,
    residual: bool = False,
    eps: float = 1e-5,
) -> Outputs:
    """Return what a row of Table 3 (`a` to `g`, `all`) predicts from F and S.

    `params` holds `head` and, where the row has them, `itrr`, `hlrr` and `lgifo`.
    """
    modules = ROWS[row]
    relations = None
    if "itrr" in modules:
        compared = compared_images(features, context, valid, bank, bank_valid)
        features, relations = itrr(
            features,
            compared,
            params["itrr"],
            heads=heads,
            scale=scale,
            residual=residual,
            eps=eps,
        )
    if "hlrr" in modules:
        assert labels is not None
        labels = hlrr(
            labels,
            params["hlrr"],
            heads=heads,
            scale=scale,
            coarse_of=coarse_of,
            sigma=sigma,
            eps=eps,
        )
    if "lgifo" in modules:
        assert labels is not None
        features = lgifo(features, labels, params["lgifo"], heads=heads, scale=scale, eps=eps)
    return Outputs(*fine_head(features, params["head"]), relations)


# ---- Equations 18 to 21: NNLDL and the loss


def nearest(weights: Array, candidates: Mask, k: int) -> list[int]:
    """Return the columns of the k largest weights [M] among candidates, ties by column."""
    columns = [j for j in range(len(weights)) if candidates[j]]
    return sorted(columns, key=lambda j: (-weights[j], j))[:k]


def label_distributions(
    relations: Array,
    predictions: Array,
    k: int = 5,
    valid: Mask | None = None,
    own: Sequence[int] | None = None,
) -> tuple[Array, Mask]:
    """Return D [B, N] and whether an image has a neighbour [B], equation 18.

    `relations` [B, M] is softmax(R_v) averaged over heads and `predictions` [M, N] is P of the
    compared images. The image itself (column `own`, by default its own row) and invalid ones
    (`valid` [M]) are no neighbours. Fewer than k are taken if there are no more. Without any, or
    if all their weights are 0, the row is 0.
    """
    count, compared = relations.shape
    own = range(count) if own is None else own
    valid = np.ones(compared, bool) if valid is None else valid
    distributions = np.zeros((count, predictions.shape[1]))
    found = np.zeros(count, bool)
    for i in range(count):
        candidates = np.array([valid[j] and j != own[i] for j in range(compared)])
        columns = nearest(relations[i], candidates, k)
        total = sum(relations[i, j] for j in columns)
        if total > 0:
            found[i] = True
            distributions[i] = sum(relations[i, j] * predictions[j] for j in columns) / total
    return distributions, found


def distribution_loss(
    distributions: Array,
    found: Mask,
    logits: Array,
    valid: Mask | None = None,
    reduction: str = "mean",
) -> float:
    """Return L_KL = -mean of D log P, equation 19; P is the softmax of the logits [B, N].

    `mean`: over the valid images and the classes, as printed. `batchmean`: over the valid images.
    An image without a neighbour adds 0, and counts. Without a valid image the loss is 0.
    """
    rows = [i for i in range(len(logits)) if valid is None or valid[i]]
    total = sum(sum(distributions[i] * log_softmax(logits[i])) for i in rows if found[i])
    terms = len(rows) * {"mean": logits.shape[1], "batchmean": 1}[reduction]
    return -float(total) / terms if terms else 0.0


def cross_entropy(logits: Array, expression: Sequence[int], valid: Mask | None = None) -> float:
    """Return L_f, equation 20: the mean of -log P at the true class.

    Invalid images and labels of -1 are left out. Without a label the loss is 0.
    """
    rows = [i for i in range(len(logits)) if (valid is None or valid[i]) and expression[i] >= 0]
    total = sum(-log_softmax(logits[i])[expression[i]] for i in rows)
    return float(total) / len(rows) if rows else 0.0


def total_loss(cross: float, distribution: float, lambda_kl: float = 1.0) -> float:
    """Return L = L_f + lambda_kl L_KL, equation 21, where the paper has lambda_kl = 1."""
    return cross + lambda_kl * distribution


def loss(
    row: str,
    outputs: Outputs,
    expression: Sequence[int],
    *,
    k: int = 5,
    valid: Mask | None = None,
    lambda_kl: float = 1.0,
    reduction: str = "mean",
) -> Losses:
    """Return the loss of a row of Table 3 within a batch, equations 18 to 21."""
    cross = cross_entropy(outputs.logits, expression, valid)
    distribution = 0.0
    if "nnldl" in ROWS[row]:
        assert outputs.relations is not None
        found = label_distributions(outputs.relations, outputs.predictions, k, valid)
        distribution = distribution_loss(*found, outputs.logits, valid, reduction)
    return Losses(total_loss(cross, distribution, lambda_kl), cross, distribution)

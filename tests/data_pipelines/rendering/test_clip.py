"""What the frames of a video show of fine expressions."""

import numpy as np
import pytest

from data_pipelines.rendering import clip, hashing, identity
from data_pipelines.rendering import fine_expressions as fine

COARSE = np.array(fine.COARSE_OF)
CLASSES = np.repeat(np.arange(33), 30)
KINDS = [identity.NUMBERS, clip.NUMBERS, (0, 2)]


def shown(ambiguity):
    """Units [n, 38] (left, right), heads and valence-arousal [n, 2] of a video of each class."""
    u = hashing.uniforms(hashing.fold(np.arange(len(CLASSES)), 1), 3)
    mixtures = fine.mixtures(CLASSES, u, ambiguity)
    units, heads, affect = [], [], []
    for row in range(len(CLASSES)):
        keys = [int(hashing.fold(row, k)[0]) for k in range(3)]
        traits, (numbers, normals), (_, jitter) = hashing.draw(keys, KINDS)
        muscles, head, ratings = clip.fine_expression(
            mixtures.of(row), identity.describe(*traits), numbers, normals, jitter, 0.0
        )
        units.append([*muscles.left.values(), *muscles.right.values()])
        heads.append((head.pitch, head.roll))
        affect.append(ratings)
    return np.array(units), np.array(heads), np.array(affect)


@pytest.fixture(scope="module")
def clear():
    return shown(0.0)


def nearest(units):
    """The class whose mean is the nearest, of means of the other videos of each class."""
    total = units.reshape(33, 30, -1).sum(axis=1)
    own = np.eye(33, dtype=bool)[CLASSES]
    without = (total - np.where(own[..., None], units[:, None], 0)) / np.where(own, 29, 30)[
        ..., None
    ]
    return np.linalg.norm(units[:, None] - without, axis=2).argmin(axis=1)


def test_classes_can_be_told_apart_and_coarse_expressions_nearly_always(clear):
    guess = nearest(clear[0])
    assert 0.9 < (guess == CLASSES).mean() < 1
    assert (COARSE[guess] == COARSE[CLASSES]).mean() > 0.99


def test_ambiguity_makes_neighbours_overlap(clear):
    """But it does not touch the coarse expression."""
    before, after = nearest(clear[0]), nearest(shown(1.0)[0])
    assert (after == CLASSES).mean() < (before == CLASSES).mean() - 0.1
    assert (COARSE[after] == COARSE[CLASSES]).mean() > 0.98


def test_heads_move_with_some_classes(clear):
    pitch, roll = np.degrees(clear[1]).reshape(33, 30, 2).transpose(2, 0, 1)
    means = dict(zip(fine.CLASS_NAMES, pitch.mean(axis=1), strict=True))
    assert means["pride"] > 5 > 0 > -5 > means["embarrass"]
    assert (pitch[np.equal(COARSE, fine.COARSE_NAMES.index("fear"))] == 0).all()
    loving = np.equal(COARSE, fine.COARSE_NAMES.index("love"))
    assert (roll[~loving] == 0).all()
    assert np.abs(roll[loving]).min() > 6
    assert (roll[loving] > 0).mean() == pytest.approx(0.5, abs=0.15)  # to either side


def test_valence_and_arousal_are_those_of_the_class(clear):
    means = clear[2].reshape(33, 30, 2).mean(axis=1)
    np.testing.assert_allclose(means, 0.925 * fine.circumplex(), atol=0.06)

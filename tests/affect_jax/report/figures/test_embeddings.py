"""Embeddings by group: every class has a look of its own."""

import numpy as np

from affect_jax.report.figures import embeddings
from affect_jax.report.figures.style import png

NAMES = [f"class {i}" for i in range(33)]


def test_groups_of_an_embedding_have_a_legend_each():
    places, classes = np.random.default_rng(0).normal(size=(66, 2)), np.repeat(np.arange(33), 2)
    groups = [(f"group {i}", list(range(3 * i, 3 * i + 3))) for i in range(11)]
    figure = embeddings.grouped_embeddings([("m", places, classes, "line")], NAMES, groups)
    upper, lower = figure.subfigs
    looks = {
        (tuple(points.get_facecolor()[0]), points.get_paths()[0].vertices.tobytes())
        for points in upper.axes[0].collections
    }
    assert len(looks) == 33  # all can be told apart
    assert [legend.get_title().get_text() for legend in lower.legends] == [n for n, _ in groups]
    assert png(figure, dpi=20)

"""Attention between labels: frames of groups, and models without groups."""

import numpy as np

from affect_jax.report.figures import label_relations
from affect_jax.report.figures.style import SMALL, png

NAMES = [f"class {i}" for i in range(33)]


def test_label_relations_frame_their_groups():
    weights = np.full((39, 39), 1 / 39)
    labels = [*NAMES, *(f"coarse {i}" for i in range(6))]
    groups = [(f"coarse {i}", n) for i, n in enumerate((5, 7, 9, 3, 6, 3))]
    panels = [
        label_relations.Panel("m", weights, labels, groups),
        label_relations.Panel("n", weights[:8, :8], labels[:8], ()),
    ]
    figure = label_relations.label_relations(panels)
    first, second = figure.axes[:2]
    assert [(p.get_x(), p.get_width()) for p in first.patches][:3] == [
        (-0.5, 5),
        (4.5, 7),
        (11.5, 9),
    ]
    assert [text.get_text() for text in first.texts] == [
        name for name, _ in groups
    ] and not second.patches
    assert {label.get_fontsize() for label in first.get_yticklabels()} == {SMALL}
    assert png(figure, dpi=20)

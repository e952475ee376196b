"""The circumplex of few and of many points."""

import numpy as np

from affect_jax.metrics.regression import RegressionStatistics
from affect_jax.report.figures import circumplex, style


def test_circumplex_of_one_and_of_many():
    rng = np.random.default_rng(0)
    for count in (1, 2000):
        true = rng.uniform(-1, 1, (count, 2))
        metrics = RegressionStatistics().update(true * 2, true).compute()
        classes = np.zeros(count, int)
        figure = circumplex.circumplex(true, true * 2, metrics, classes, ["only"])
        assert len(style.png(figure, dpi=50)) > 1000
    assert figure.axes[2].get_title(loc="left").startswith("Valence: CCC 0.8")

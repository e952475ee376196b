"""Training curves of any length and any stages; landmark error curves."""

import numpy as np
import pytest

from affect_jax.metrics.landmarks import LandmarkStatistics, error_curve
from affect_jax.report.figures import curves, style


@pytest.mark.parametrize("points", [1, 2, 2000])
def test_training_curves_of_any_length(points):
    rows = [{"step": i + 1, "split": "train", "loss": 1.0 / (i + 1)} for i in range(points)]
    rows.append({"step": points, "split": "validation", "accuracy": None, "nme": 0.05})
    figure = curves.training_curves(rows, best_step=points)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Loss", "Landmark error (NME)"]
    assert len(style.png(figure, dpi=50)) > 1000


def test_stages_have_loss_panels_of_their_own():
    rows = [
        {"step": s, "split": "train", "stage": "landmarks" if s < 20 else "emotion",
         "loss": 0.01 if s < 20 else 7.0}
        for s in range(1, 61)
    ]  # fmt: skip
    rows += [{"step": s, "split": "validation", "loss": 4.0, "nme": 0.1} for s in (15, 30, 60)]
    figure = curves.training_curves(rows, best_step=60)
    first, second, metric = figure.axes
    assert first.get_title(loc="left") == "Loss of the stage “landmarks”"
    assert second.get_title(loc="left") == "Loss of the stage “emotion”"
    shown = {line.get_label(): line.get_xdata() for line in second.lines}
    np.testing.assert_array_equal(shown["validation"], [30, 60])
    assert np.max([line.get_ydata().max() for line in first.lines]) < 1
    assert first.get_xlim()[1] < 21 and second.get_xlim()[0] > 18
    assert any(np.ravel(line.get_xdata())[0] == 20 for line in metric.lines)
    assert len(curves.training_curves(rows, 60, narrow=True).axes) == 3


def test_landmark_error_curve_figures():
    errors = np.array([0.02, 0.04, 0.16])
    # Area: mean of (.08 - e)/.08 over the errors, none below 0: (.75 + .5 + 0)/3
    found = LandmarkStatistics().add({"nme": errors, "nme_box": errors}).compute()
    lines = {"by inter-ocular distance": error_curve(errors)}
    figure = curves.landmark_error_curve(lines, found["nme_auc"], found["nme_failures"])
    assert figure.axes[0].get_title(loc="left") == "Area up to 8%: 0.417, failures 33.3%"


def test_rows_without_a_loss_or_a_metric_are_refused():
    with pytest.raises(ValueError, match="training_curves: no row holds"):
        curves.training_curves([{"step": 1, "split": "train", "loss": None}])


def test_figures_leave_the_users_style_alone():
    import matplotlib

    with matplotlib.rc_context({"font.size": 31, "axes.grid": True}):
        figure = curves.landmark_error_curve({"a": (np.array([0.05]), np.ones(1))}, 0.4, 0.0)
        assert figure.axes[0].xaxis.label.get_size() == 9
        assert matplotlib.rcParams["font.size"] == 31

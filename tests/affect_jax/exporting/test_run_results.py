"""Results in a card, of runs that were never trained."""

import numpy as np

from affect_jax import runtime
from affect_jax.evaluation import predictions
from affect_jax.exporting import run_results
from tests.affect_jax import fake_runs, tiny


def finished(folder, accuracy=None):
    """A finished run without attributes; its accuracy is the right one unless given."""
    config = tiny.one_block(num_steps=4)
    stored = fake_runs.finish(config, folder, 0.0)
    right = np.mean(stored["logits"].argmax(1) == stored["expression"])
    (folder / runtime.METRICS_FILE).unlink()
    fake_runs.finish(config, folder, float(right) if accuracy is None else accuracy)
    return right


def test_a_run_without_attributes_says_so(tmp_path):
    right = finished(tmp_path)
    text = run_results.section(run_results.read(tmp_path, 4))
    assert f"| accuracy ↑ | {right:.3f} | - |\n" in text
    assert "### Subgroups\n\nNot measured: the data have no attributes" in text
    assert "loss" not in text and "found least often" not in text


def test_the_classes_found_least_often_are_named(tmp_path):
    finished(tmp_path)
    with runtime.MetricWriter(tmp_path, resume_step=3) as writer:
        recalls = {f"recall_{name}": k / 8 for k, name in enumerate("edcba")}
        writer.write(4, "test", {"checkpoint": 4, **recalls}, final=True)
    text = run_results.section(run_results.read(tmp_path, 4))
    assert "Classes found least often (recall): e 0.000, d 0.125, c 0.250." in text


def test_predictions_of_another_test_give_no_subgroups(tmp_path):
    right = finished(tmp_path, accuracy=0.875)
    assert right != 0.875
    text = run_results.section(run_results.read(tmp_path, 4))
    assert "accuracy ↑ | 0.875" in text
    assert text.endswith("Not measured: the stored predictions are of another test.")
    told = run_results.section(run_results.read(tmp_path, 4), temperature=1.5)
    note = "The test was without the temperature of 1.5: calibration error (ECE) and negative"
    assert told.startswith(text) and told[len(text) :].startswith(f"\n\n{note}")


def test_another_checkpoint_has_no_results(tmp_path):
    finished(tmp_path)
    text = run_results.section(run_results.read(tmp_path, 2))
    assert text.endswith("None of this checkpoint: the run tested its checkpoint of step 4.")


def test_damaged_predictions_and_no_test_are_no_results(tmp_path, caplog):
    assert run_results.read(tmp_path, 4) is None
    assert run_results.section(None).endswith("None: the run has no finished test.")
    finished(tmp_path)
    path = tmp_path / runtime.REPORT_FOLDER / predictions.ARRAYS_FILE
    path.write_bytes(path.read_bytes()[:100])
    assert run_results.read(tmp_path, 4) is None
    assert caplog.text.count("the model card has no results") == 2

"""The arrays of a model directory, as plain Orbax reads them."""

import numpy as np
import orbax.checkpoint as ocp

from affect_jax.exporting import orbax
from affect_jax.exporting.program import Program
from affect_jax.weights.model_dir import arrays_of
from tests.affect_jax import tiny_models


def test_five_lines_of_orbax_read_the_arrays(tmp_path):
    loaded = tiny_models.loaded("rald")
    model = tiny_models.save(loaded, tmp_path / "model")
    arrays = ocp.StandardCheckpointer().restore(model / "params")
    own = arrays_of(loaded.model)
    assert arrays.keys() == own.keys() == {"params", "stats"}
    for part, values in own.items():
        assert arrays[part].keys() == values.keys()
        for name, value in values.items():
            np.testing.assert_array_equal(arrays[part][name], value, err_msg=name)
    assert (arrays["stats"]["relations/bank_labels"] >= 0).all()


def test_arrays_that_are_there_stay(tmp_path):
    loaded = tiny_models.loaded("features")
    model = tiny_models.save(loaded, tmp_path / "model")
    before = (model / "params" / "_METADATA").stat().st_mtime_ns
    orbax.write(Program.of(loaded), model / "params")
    assert (model / "params" / "_METADATA").stat().st_mtime_ns == before
    orbax.write(Program.of(loaded), tmp_path / "alone")
    kept = orbax.read(tmp_path / "alone")["params"]["head/bias"]
    np.testing.assert_array_equal(kept, arrays_of(loaded.model)["params"]["head/bias"])

"""ResNet-18 against torchvision's."""

import golden_data as golden
import pytest

from affect_jax import model_io
from affect_jax.predict import Predictor


@pytest.mark.parametrize("dtype", golden.DTYPES)
def test_outputs_and_stages_are_those_of_torchvision(dtype):
    preprocessing = golden.conversion.release("resnet18").preprocessing
    with golden.precision(dtype):
        model = golden.build("resnet18", "resnet18", dtype)
        loaded = model_io.LoadedModel(model, "resnet18", {"dtype": dtype}, preprocessing, (), {})
        outputs = Predictor(loaded).outputs(golden.network_input("resnet18", preprocessing))
    for name in golden.manifest("resnet18")["outputs"]:
        golden.assert_recorded("resnet18", name, outputs[name], dtype)

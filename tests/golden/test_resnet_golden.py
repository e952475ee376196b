"""ResNet-18 against torchvision's."""

import pytest

from affect_jax.inference.predictor import Predictor
from affect_jax.weights import model_dir
from affect_jax.weights.released import convert
from tests.golden import golden_data as golden


@pytest.mark.parametrize("dtype", golden.MAINLY_DOUBLE)
def test_outputs_and_stages_are_those_of_torchvision(dtype):
    preprocessing = convert.release("resnet18").preprocessing
    with golden.precision(dtype):
        model = golden.build("resnet18", "resnet18", dtype)
        loaded = model_dir.LoadedModel(model, "resnet18", {"dtype": dtype}, preprocessing, (), {})
        outputs = Predictor(loaded).outputs(golden.network_input("resnet18", preprocessing))
    for name in golden.manifest("resnet18")["outputs"]:
        golden.assert_recorded("resnet18", name, outputs[name], dtype)

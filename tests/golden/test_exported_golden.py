"""The whole way of a released network: file, convert, export, and its formats give the recorded
outputs of the published implementation."""

import numpy as np
import pytest

import affect_jax
from affect_jax import convert, export
from affect_jax.exporting import onnx, stablehlo
from tests.golden import golden_data as golden

# Architecture -> record, and recorded output -> ours.
CASES = {
    "emonet": (
        "emonet8",
        {name: name for name in ("valence", "arousal")}
        | {"heatmap": "heatmaps", "expression": "logits"},
    ),
    "fan": ("fan4", {"heatmap3": "heatmaps"}),
    "poster_v2": ("poster7", {"logits": "logits"}),
    "arbex": ("arbex_poster", {"embedding": "embedding"}),
    "vit_b16": ("vit_b16", {"logits": "logits"}),
    "resnet18": ("resnet18", {name: name for name in ("logits", "layer4", "avgpool")}),
}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", CASES)
def test_converted_and_exported_networks_give_the_recorded_outputs(architecture, tmp_path):
    name, outputs = CASES[architecture]
    np.savez(tmp_path / "official.npz", **golden.state_dict(name))
    source, model = tmp_path / "converted", tmp_path / "exported"
    command = ["--architecture", architecture, "--source", str(tmp_path / "official.npz")]
    # The rule of the record, where a file does not tell its normalisation.
    if architecture == "vit_b16":
        command += ["--mean=0.5,0.5,0.5", "--std=0.5,0.5,0.5"]
    assert convert.main([*command, "--output", str(source)]) == 0
    command = ["--model", str(source), "--output", str(model), "--formats=stablehlo,onnx"]
    assert export.main([*command, f"--outputs={','.join(outputs.values())}"]) == 0
    pictures = golden.pictures(name)
    found = {
        "orbax": affect_jax.load(model).outputs(pictures),
        "stablehlo": stablehlo.read(model / stablehlo.FILE)(pictures),
        "onnx": onnx.read(model / onnx.FILE)(pictures),
    }
    for official, ours in outputs.items():
        for kind in ("orbax", "stablehlo"):
            golden.assert_recorded(name, official, found[kind][ours], "float32")
        wanted, got = found["orbax"][ours], found["onnx"][ours]
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4 * max(1, np.abs(wanted).max()))

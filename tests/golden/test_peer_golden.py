"""The PyTorch peers against the recorded outputs of the released networks."""

import numpy as np
import pytest

from affect_jax.benchmark import peer
from affect_jax.weights.released import convert
from tests.golden import golden_data as golden

torch = pytest.importorskip("torch")

# Record -> (peer, its arguments, architecture of the converter, names of the outputs).
CASES = {
    "emonet8": ("emonet", {"classes": 8}, "emonet", None),
    "emonet5": ("emonet", {"classes": 5}, "emonet", None),
    "emonet8_noattention": ("emonet", {"classes": 8, "attention": False}, "emonet", None),
    "fan4": ("fan", {}, "fan", ("heatmap0", "heatmap1", "heatmap2", "heatmap3")),
    "ir50": ("ir50", {}, "ir50", ("x1", "x2", "x3")),
    "mobilefacenet": ("mobilefacenet", {}, "mobilefacenet", ("out3", "out4", "conv_features")),
    "poster7": ("poster_v2", {"classes": 7}, "poster_v2", ("logits",)),
    "poster8": ("poster_v2", {"classes": 8}, "poster_v2", ("logits",)),
}


@pytest.mark.parametrize("name", CASES)
def test_entries_are_those_of_the_released_files(name):
    network, arguments, _, _ = CASES[name]
    with torch.device("meta"):
        model = peer.create(network, **arguments)
    found = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert found == {e["name"]: e["shape"] for e in golden.manifest(name)["state_dict"]}


def outputs(name):
    """Outputs by recorded name, of the peer with the recorded weights."""
    network, arguments, architecture, names = CASES[name]
    model = peer.create(network, **arguments)
    state = {key: torch.from_numpy(value) for key, value in golden.state_dict(name).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("num_batches" in key or "index" in key for key in missing), missing
    model.eval()
    images = golden.network_input(name, convert.release(architecture).preprocessing)
    with torch.inference_mode():
        found = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    if isinstance(found, dict):
        return found
    return dict(zip(names, [found] if names == ("logits",) else found, strict=True))


@pytest.mark.parametrize(
    "name",
    [
        name if name == "mobilefacenet" else pytest.param(name, marks=pytest.mark.slow)
        for name in CASES
    ],
)
def test_outputs_are_those_of_the_released_networks(name):
    found = outputs(name)
    for output in golden.manifest(name)["outputs"]:
        value = found[output].numpy()
        if value.ndim == 4:
            value = value.transpose(0, 2, 3, 1)
        golden.assert_recorded(name, output, np.ascontiguousarray(value), "float32")

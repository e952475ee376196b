"""Our export to ONNX in ONNX Runtime, in float32 or in 8 bits."""

import pathlib
import tempfile
from typing import Any

import numpy as np

from affect_jax.benchmark.timing import Engine
from affect_jax.errors import UserError
from affect_jax.exporting import onnx
from affect_jax.exporting.program import Program
from affect_jax.metrics.classification import softmax
from affect_jax.weights.model_dir import LoadedModel
from data_pipelines.loading.options import usable_cores

_CALIBRATION, _COMPARED = 16, 16  # images
# Nearly all the work. By default ONNX Runtime also quantises the sums and products of LayerNorm:
# probabilities of a tiny ViT then differ by 0.018, without by 0.003.
_QUANTISED = ["Conv", "Gemm", "MatMul"]


def engine(
    loaded: LoadedModel, outputs: tuple[str, ...], *, int8: bool
) -> tuple[Engine, dict[str, float]]:
    """Return the exported model, and how its probabilities differ in 8 bits.

    ONNX Runtime quantises convolutions and matrix products: weights by the range of each channel,
    activations by their range on a few images. Weights take 7 of the 8 bits: sums of products
    overflow on processors without VNNI. The differences are `largest_difference` and
    `mean_difference` to float32, on other images.

    Args:
      loaded: the model.
      outputs: what it gives; all else is left out.
      int8: whether to quantise it.

    Raises:
      UserError: the packages are not installed.
    """
    program = Program.of(loaded, outputs)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / onnx.FILE
        onnx.write(program, path)
        session, known = _session(path), {}
        if int8:
            images = program.example(_CALIBRATION + _COMPARED)
            path = _quantised(path, program.input_name, images[:_CALIBRATION])
            exact, session = session, _session(path)
            rest = {program.input_name: images[_CALIBRATION:]}
            pair = [softmax(s.run(["logits"], rest)[0]) for s in (exact, session)]
            difference = np.abs(pair[0] - pair[1])
            known = {
                "largest_difference": float(difference.max()),
                "mean_difference": float(difference.mean()),
            }
    names = list(outputs)

    def predict(images: np.ndarray) -> Any:
        return session.run(names, {program.input_name: images})

    return Engine(lambda images: images, predict, lambda _: None), known


def _session(path: pathlib.Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError('onnxruntime is needed: pip install -e ".[onnx]"') from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(str(path), options, providers=providers)


def _quantised(path: pathlib.Path, name: str, images: np.ndarray) -> pathlib.Path:
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        """The images, one at a time."""

        def __init__(self) -> None:
            self._left = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self._left, None)
            return None if image is None else {name: image[None]}

    prepared, result = path.with_name("prepared.onnx"), path.with_name("int8.onnx")
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    quantization.quantize_static(
        str(prepared),
        str(result),
        Reader(),
        per_channel=True,
        reduce_range=True,
        op_types_to_quantize=_QUANTISED,
    )
    return result

"""ViT-B/16 against timm: the logits, and the class token after every block."""

import jax
import numpy as np
import pytest
from flax import nnx

from affect_jax.weights.released import convert
from tests.golden import golden_data as golden

PREPROCESSING = convert.release("vit_b16").preprocessing


@pytest.mark.parametrize("dtype", golden.MAINLY_DOUBLE)
def test_logits_and_class_tokens_are_those_of_timm(dtype):
    with golden.precision(dtype):
        model = golden.build("vit_b16", "vit_b16", dtype)
        images = golden.network_input("vit_b16", PREPROCESSING).astype(dtype)
        graphdef, state = nnx.split(model)
        # With its attention asked for, float32 takes another path; it is compared elsewhere.
        run = jax.jit(lambda s, x: nnx.merge(graphdef, s, copy=True).trace(x, attention=False))
        trace = jax.device_get(run(state, images))
    golden.assert_recorded("vit_b16", "logits", trace.outputs["logits"], dtype)
    tokens = np.stack([x[:, 0] for x in trace.tokens])
    golden.assert_recorded("vit_b16", "cls_per_block", tokens, dtype)

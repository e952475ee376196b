"""The compiled train step: few collectives, no call of the host, nothing in float64."""

import collections
import re

import jax
import numpy as np
import pytest

from affect_jax.benchmark.collectives import collectives, host_calls
from affect_jax.benchmark.programs import Programs
from affect_jax.runtime.parallel import AbsentDevices
from tests.affect_jax import small_systems

# What the loss sums over all replicas, and the norm of the gradient: scalars and small vectors.
_OF_THE_LOSS = 3


@pytest.mark.parametrize(
    "name",
    [
        "vit_se",
        *(pytest.param(n, marks=pytest.mark.slow) for n in small_systems.SYSTEMS if n != "vit_se"),
    ],
)
def test_the_train_step(name):
    """All gradients in one collective; at most one of a BatchNorm forward and one backward."""
    programs = Programs(small_systems.config(name), AbsentDevices(jax.devices()[:2]))
    program = programs.train(16)
    compiled = program.lower().compile()
    text = compiled.as_text()
    state = program.arguments[0]
    passes = 2 if programs.config.optimizer.sam_rho else 1
    norms = sum(path.endswith("/var") for path in state["stats"])
    sent = collectives(text)
    kinds = collections.Counter(c.kind for c in sent)
    assert kinds["all-reduce"] <= passes * (2 * norms + 1) + _OF_THE_LOSS, kinds
    # These configs do not mix images, and only relations look at those of other devices.
    assert kinds.keys() == {"all-reduce"} or name == "rald", kinds
    weights = sum(4 * np.prod(p.shape) for p in state["params"].values())
    reduced = sum(c.bytes for c in sent if c.kind == "all-reduce")
    assert weights <= reduced <= passes * 1.3 * weights + 10_000
    assert not host_calls(text)
    assert not re.findall(r"\bf64\[", text)
    aliased = compiled.memory_analysis().alias_size_in_bytes
    held = sum(x.dtype.itemsize * np.prod(x.shape) for x in jax.tree.leaves(state))
    assert aliased >= 0.99 * held

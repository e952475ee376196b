"""Two steps of every small system over the devices of a job, for comparisons between jobs.

`python -m tests.affect_jax.training.steps RESULT.json MAPPING [COORDINATOR PROCESSES RANK]`
"""

import json
import pathlib
import sys
from typing import Any

import jax
import numpy as np
from flax import nnx

from affect_jax import systems
from affect_jax.runtime import cluster, parallel
from affect_jax.runtime.parallel import AXIS, Mapper
from affect_jax.training.step import Phases
from tests.affect_jax import small_systems

EXAMPLES = 32


def batch() -> dict[str, np.ndarray]:
    """The global batch; labels are missing here and there, and the last examples are padding."""
    rng = np.random.default_rng(0)
    expression = rng.integers(0, 8, EXAMPLES).astype(np.int32)
    expression[3:7] = -1
    valence_arousal = rng.uniform(-1, 1, (EXAMPLES, 2)).astype(np.float32)
    valence_arousal[5:12, 0] = np.nan
    landmarks = rng.uniform(2, 30, (EXAMPLES, 68, 2)).astype(np.float32)
    landmarks[10:13] = np.nan
    return {
        "image": rng.integers(0, 256, (EXAMPLES, 32, 32, 3), dtype=np.uint8),
        "expression": expression,
        "valence_arousal": valence_arousal,
        "landmarks": landmarks,
        "mask": np.arange(EXAMPLES) < EXAMPLES - 3,
    }


def two_steps(name: str, mapper: Mapper, dtype: str = "float32") -> tuple[dict, list[dict]]:
    """The state after two steps of a system, and the terms of both."""
    config = small_systems.config(name)
    config.model.dtype = config.model.param_dtype = dtype
    system = systems.create(
        config,
        class_names=tuple("abcdefgh"),
        has=frozenset({"expression", "valence_arousal", "landmarks"}),
        class_counts=(1,) * 8,
    )
    model = system.create_model(nnx.Rngs(3), AXIS)
    phases = Phases(system, model, mapper, 10, 10)
    begun = phases.begin(phases.all[-1])
    state: Any = mapper.replicate(phases.fresh_state(begun))
    size = EXAMPLES // jax.process_count()
    start = size * jax.process_index()
    placed = mapper.place({k: v[start : start + size] for k, v in batch().items()})
    found = []
    for _ in range(2):
        state, terms = begun.run(state, placed)
        found.append({k: float(v) for k, v in jax.device_get(terms).items()})
    return jax.device_get(state), found


def main(result: str, mapping: str, *job: str) -> None:
    """Write system -> terms of both steps, and sums of weights and statistics after them."""
    if job:
        cluster.join(job[0], int(job[1]), int(job[2]))
    assert jax.device_count() == 4
    found = {}
    for name in small_systems.SYSTEMS:
        state, terms = two_steps(name, Mapper(mapping))
        weights = sum(float(np.abs(x).sum()) for x in state["params"].values())
        statistics = sum(float(np.abs(x).sum()) for x in state["stats"].values())
        found[name] = [*terms, {"weights": weights, "statistics": statistics}]
    if parallel.is_main_process():
        pathlib.Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Mapping and placing: pmap and shard_map give the same numbers, nothing is lost on the way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from affect_jax.errors import UserError
from affect_jax.runtime import parallel

BATCH = {
    "x": np.arange(48, dtype=np.float32).reshape(16, 3),
    "index": np.arange(16, dtype=np.int64) + 2**40,
}


def least_squares_step(state, batch):
    """One gradient step on the mean of the global batch, with a per-example output."""

    def loss(w):
        total = jax.lax.psum(jnp.sum((batch["x"] @ w) ** 2), parallel.AXIS)
        count = jax.lax.psum(jnp.float32(batch["x"].shape[0]), parallel.AXIS)
        return total / count

    value, gradient = jax.value_and_grad(loss)(state)
    return state - 1e-4 * jax.lax.pmean(gradient, parallel.AXIS), value


@pytest.fixture(params=parallel.MAPPINGS)
def mapper(request):
    assert jax.device_count() == 8
    return parallel.Mapper(request.param)


def test_one_step_equals_plain_numpy(mapper):
    w = np.array([1.0, -2.0, 0.5], np.float32)
    step = mapper.map(least_squares_step, donate_state=True)
    new, loss = step(mapper.replicate(w), mapper.place(BATCH))
    x = BATCH["x"]
    gradient = 2 * x.T @ (x @ w) / len(x)
    np.testing.assert_allclose(new, w - 1e-4 * gradient, rtol=1e-5)
    np.testing.assert_allclose(loss, np.mean((x @ w) ** 2), rtol=1e-6)


def test_state_buffers_are_donated(mapper):
    state = mapper.replicate(np.ones(3, np.float32))
    step = mapper.map(least_squares_step, donate_state=True)
    step(state, mapper.place(BATCH))
    assert state.is_deleted()


def test_sharded_outputs_come_back_in_batch_order(mapper):
    step = mapper.map(lambda s, b: {"y": b["x"] * s}, sharded_output=True)
    rows = mapper.local_rows(step(mapper.replicate(np.float32(3)), mapper.place(BATCH)))
    np.testing.assert_array_equal(rows["y"], BATCH["x"] * 3)


def test_replicated_extra_arguments(mapper):
    step = mapper.map(lambda s, b, extra: jax.lax.psum(jnp.sum(b["x"]), "data") * s + extra["a"])
    extra = mapper.replicate({"a": np.float32(5)})
    got = step(mapper.replicate(np.float32(2)), mapper.place(BATCH), extra)
    assert float(got) == 2 * BATCH["x"].sum() + 5


def test_prefetch_keeps_order_and_host_fields(mapper):
    batches = [{k: v + i for k, v in BATCH.items()} for i in range(5)]
    seen = list(mapper.prefetch(iter(batches), size=2))
    assert [host["index"][0] for host, _ in seen] == [2**40 + i for i in range(5)]
    assert all("index" not in placed for _, placed in seen)
    np.testing.assert_array_equal(np.asarray(seen[3][1]["x"]).reshape(16, 3), batches[3]["x"])


def test_prefetch_reads_no_more_than_asked():
    read = []

    def endless():
        i = 0
        while True:
            read.append(i)
            yield BATCH
            i += 1

    stream = parallel.Mapper().prefetch(endless(), size=2)
    next(stream)
    assert len(read) <= 3


def test_uneven_batch_is_refused_with_neighbours():
    with pytest.raises(UserError, match=r"config.batch_size = 12.*such as 8 or 16"):
        parallel.check_batch_size(12)
    parallel.check_batch_size(24)


def test_unknown_mapping_is_refused():
    with pytest.raises(UserError, match=r"parallel.mapping = 'pjit'"):
        parallel.Mapper("pjit")


def averaged(tree, devices):
    """The function that averages `tree` + replica number over devices, and its jaxpr."""
    mapper = parallel.Mapper("shard_map", jax.devices()[:devices])

    def step(tree, batch):
        return parallel.mean_over_replicas(jax.tree.map(lambda x: x + batch["x"][0], tree))

    mapped, batch = mapper.map(step), mapper.place({"x": np.arange(devices, dtype=np.float32)})
    tree = mapper.replicate(tree)
    return jax.device_get(mapped(tree, batch)), str(mapped.program(tree, batch).lower().as_text())


def test_small_arrays_are_averaged_together_and_large_ones_as_they_are(monkeypatch):
    monkeypatch.setattr(parallel, "_ALONE_BYTES", 4 * 100)
    tree = {name: np.full(shape, 5, np.float32) for name, shape in (("a", (3, 2)), ("b", ()))}
    tree |= {"large": np.zeros(100, np.float32), "c": np.ones(7, np.float32)}
    means, text = averaged(tree, 4)
    for name, value in tree.items():
        np.testing.assert_array_equal(means[name], value + 1.5)
    assert text.count("stablehlo.all_reduce") == 2
    assert text.count("stablehlo.concatenate") == 1


def test_one_replica_copies_nothing_to_be_averaged():
    means, text = averaged({"a": np.ones(3, np.float32), "b": np.zeros(2, np.float32)}, 1)
    assert means["a"].tolist() == [1, 1, 1]
    assert "concatenate" not in text


def test_gather_keeps_float64():
    value = np.array([1 + 1e-15, np.pi])
    np.testing.assert_array_equal(parallel.all_gather_hosts(value), value[None])

"""Devices and processes: steps mapped over them, batches and states laid out on them.

A train or evaluation step is written for one replica, with collectives over the axis named
`AXIS`, and mapped here by `jax.pmap` or `jax.shard_map`. State is passed unreplicated (one
logical copy, laid out on every device); batches are split over the devices.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, overload

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from affect_jax.errors import UserError

AXIS = "data"
MAPPINGS = ("pmap", "shard_map")

# Smaller arrays travel together. One of this size uses a link fully, and to join it costs a copy.
_ALONE_BYTES = 4 * 2**20

# Batch fields that stay on the host: a device would narrow int64 to int32.
HOST_FIELDS = ("index",)


def is_main_process() -> bool:
    """Return True on the one process that writes files and prints."""
    return jax.process_index() == 0


def check_batch_size(batch_size: int, key: str = "batch_size") -> None:
    """Raise UserError unless the global batch divides evenly over all devices."""
    devices = jax.device_count()
    if batch_size < 1 or batch_size % devices:
        below = max(batch_size // devices, 1) * devices
        raise UserError(
            f"config.{key} = {batch_size} cannot be split evenly over {devices} devices; "
            f"use a multiple of {devices}, such as {below} or {below + devices}"
        )


def _mesh(devices: list[jax.Device]) -> jax.sharding.Mesh:
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def mean_over_replicas(tree: Any) -> Any:
    """Return the mean of `tree` over the replicas, with few collectives.

    Called inside of a mapped step. Arrays below `_ALONE_BYTES` of one dtype travel together. XLA
    joins larger ones where that pays, without a copy. One replica copies nothing.
    """
    leaves, structure = jax.tree.flatten(tree)
    together: dict[Any, list[int]] = {}
    if jax.lax.axis_size(AXIS) > 1:
        for i, leaf in enumerate(leaves):
            if leaf.size * leaf.dtype.itemsize < _ALONE_BYTES:
                together.setdefault(leaf.dtype, []).append(i)
    joined = {i for positions in together.values() for i in positions}
    means = [None if i in joined else jax.lax.pmean(x, AXIS) for i, x in enumerate(leaves)]
    for positions in together.values():
        vector = jax.numpy.concatenate([leaves[i].reshape(-1) for i in positions])
        parts = np.cumsum([leaves[i].size for i in positions])[:-1].tolist()
        split = jax.numpy.split(jax.lax.pmean(vector, AXIS), parts)
        for i, part in zip(positions, split, strict=True):
            means[i] = part.reshape(leaves[i].shape)
    return jax.tree.unflatten(structure, means)


class Program(NamedTuple):
    """A mapped function and the arguments that make it one program."""

    function: Any
    arguments: tuple

    def lower(self, **options: Any) -> jax.stages.Lowered:
        """Return the program before compilation; arguments may be abstract."""
        return self.function.lower(*self.arguments, **options)


class Mapped:
    """A function mapped over devices: call it, or look at its program.

    Args:
      mapped_for: number of arguments -> the compiled function.
    """

    def __init__(self, mapped_for: Callable[[int], Any]):
        self._mapped_for = mapped_for
        self._compiled: dict[int, Any] = {}

    def __call__(self, *args: Any) -> Any:
        return self.program(*args).function(*args)

    def program(self, *args: Any) -> Program:
        """Return what a call with `args` runs; they may be `jax.ShapeDtypeStruct`."""
        if len(args) not in self._compiled:
            self._compiled[len(args)] = self._mapped_for(len(args))
        return Program(self._compiled[len(args)], args)


class Mapper:
    """Mapping of per-replica functions over devices, and placement of their inputs.

    Args:
      mapping: "pmap" or "shard_map"; both give the same numbers.
      devices: devices to use; default: all.

    Raises:
      UserError: for another mapping.
    """

    def __init__(self, mapping: str = "pmap", devices: list[jax.Device] | None = None):
        if mapping not in MAPPINGS:
            raise UserError(f"config.parallel.mapping = {mapping!r}; use one of {MAPPINGS}")
        self.mapping = mapping
        self.devices = list(devices if devices is not None else jax.devices())
        self._local = [d for d in self.devices if d.process_index == jax.process_index()]
        self.global_mesh: Any = _mesh(self.devices)
        # pmap takes and gives arrays of this process alone.
        self.mesh: Any = _mesh(self._local) if mapping == "pmap" else self.global_mesh

    def map(
        self, step: Callable, *, donate_state: bool = False, sharded_output: bool = False
    ) -> Mapped:
        """Map `step(state, batch, *replicated) -> (state or metrics ...)` over devices.

        Args:
          step: per-replica function of the batch and of arguments equal on every replica.
          donate_state: let XLA reuse the buffers of the first argument, which must not be read
            after the call.
          sharded_output: outputs are per-example arrays, split like the batch; otherwise they
            must be equal on all replicas and come back as one copy.

        Returns:
          A compiled function of the same signature, for batches made by `place`.
        """
        donate = (0,) if donate_state else ()

        def mapped_for(count: int) -> Callable:
            if self.mapping == "pmap":
                return jax.pmap(
                    step,
                    axis_name=AXIS,
                    in_axes=(None, 0) + (None,) * (count - 2),
                    out_axes=0 if sharded_output else None,
                    donate_argnums=donate,
                    devices=self.devices,
                )
            specs = (P(), P(AXIS)) + (P(),) * (count - 2)
            output = P(AXIS) if sharded_output else P()
            # As under pmap, the gradient of a psum is a psum: one rule for both mappings. With the
            # check, every parameter would get a collective of its own in the backward pass.
            sharded = jax.shard_map(
                step, mesh=self.mesh, in_specs=specs, out_specs=output, check_vma=False
            )
            return jax.jit(sharded, donate_argnums=donate)

        return Mapped(mapped_for)

    def place(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Put this process's part of a batch onto its devices, without `HOST_FIELDS`."""
        fields = {k: v for k, v in batch.items() if k not in HOST_FIELDS}
        if self.mapping == "pmap":
            count = len(self._local)
            fields = {
                k: np.reshape(v, (count, v.shape[0] // count, *v.shape[1:]))
                for k, v in fields.items()
            }
        # pmap takes one leading row a device, so both layouts are a split of the first axis.
        sharding = NamedSharding(self.mesh, P(AXIS))
        return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in fields.items()}

    def replicate(self, tree: Any) -> Any:
        """Copy `tree` (equal on all processes) to every device."""
        sharding = NamedSharding(self.mesh, P())

        def put(leaf: Any) -> jax.Array:
            leaf = np.asarray(leaf)
            return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

        return jax.tree.map(put, tree)

    def to_global(self, tree: Any) -> Any:
        """Return replicated arrays as arrays of the whole job, without a copy."""
        return self._move(tree, self.global_mesh)

    def from_global(self, tree: Any) -> Any:
        """Undo `to_global`."""
        return self._move(tree, self.mesh)

    def _move(self, tree: Any, mesh: jax.sharding.Mesh) -> Any:
        if self.mesh == self.global_mesh:
            return tree
        sharding = NamedSharding(mesh, P())

        def move(array: jax.Array) -> jax.Array:
            pieces = [shard.data for shard in array.addressable_shards]
            return jax.make_array_from_single_device_arrays(array.shape, sharding, pieces)

        return jax.tree.map(move, tree)

    def local_rows(self, outputs: dict[str, jax.Array]) -> dict[str, np.ndarray]:
        """Return this process's rows of per-example outputs, in the order of its batch."""

        def rows(array: jax.Array) -> np.ndarray:
            shards = sorted(array.addressable_shards, key=lambda s: s.index[0].start or 0)
            joined = np.concatenate([np.asarray(s.data) for s in shards])
            return joined.reshape(-1, *joined.shape[2:]) if self.mapping == "pmap" else joined

        return {k: rows(v) for k, v in outputs.items()}

    def prefetch(
        self, batches: Iterable[dict[str, np.ndarray]], size: int = 2
    ) -> Iterator[tuple[dict[str, np.ndarray], dict[str, jax.Array]]]:
        """Yield (host batch, placed batch), with `size` batches placed ahead."""
        queue: collections.deque = collections.deque()
        for batch in batches:
            queue.append((batch, self.place(batch)))
            if len(queue) >= size:
                yield queue.popleft()
        yield from queue


class AbsentDevices(Mapper):
    """Mapping over devices that need not be here: its programs can be lowered, not run.

    Args:
      devices: their number, for any platform; or descriptions of devices, as
        `jax.experimental.topologies` gives them, to compile for.
    """

    def __init__(self, devices: int | list[jax.Device]):
        self.mapping = "shard_map"
        self.devices = [] if isinstance(devices, int) else devices
        self._local = []
        if isinstance(devices, int):
            self.mesh = jax.sharding.AbstractMesh((devices,), (AXIS,), (AxisType.Auto,))
        else:
            self.mesh = _mesh(devices)
        self.global_mesh = self.mesh

    def place(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of a global batch as shapes, without `HOST_FIELDS`."""
        fields = {k: v for k, v in batch.items() if k not in HOST_FIELDS}
        return self._shapes(fields, P(AXIS))

    def replicate(self, tree: Any) -> Any:
        """Return `tree` as shapes of arrays that every device has."""
        return self._shapes(tree, P())

    def _shapes(self, tree: Any, split: P) -> Any:
        sharding = NamedSharding(self.mesh, split)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=sharding), tree
        )


def all_gather_hosts(array: np.ndarray) -> np.ndarray:
    """Stack one float64 array of every process, [processes, ...], without rounding."""
    if jax.process_count() == 1:
        return array[None]
    from jax.experimental import multihost_utils

    # Devices would narrow float64; the bytes travel as uint8 instead.
    raw = np.frombuffer(np.ascontiguousarray(array, np.float64).tobytes(), np.uint8)
    gathered = np.asarray(multihost_utils.process_allgather(raw))
    return np.stack([np.frombuffer(r.tobytes(), np.float64).reshape(array.shape) for r in gathered])


def any_process(flag: bool) -> bool:
    """Return True on every process if `flag` is true on any."""
    return bool(all_gather_hosts(np.asarray([float(flag)])).any())


@overload
def from_main(decide: Callable[[], int]) -> int: ...


@overload
def from_main(decide: Callable[[], int | None]) -> int | None: ...


def from_main(decide: Callable[[], int | None]) -> int | None:
    """Run `decide` on the main process alone and return its result on every process.

    The result is None or a whole number below 2**53. If `decide` raises, its error is raised on
    the main process, and on the others a UserError that refers to it.
    """
    failure, result = None, None
    if is_main_process():
        try:
            result = decide()
        except Exception as error:
            failure = error
    state = [float(failure is not None), float(result is None), float(result or 0)]
    failed, none, number = all_gather_hosts(np.asarray(state))[0].tolist()
    if failure is not None:
        raise failure
    if failed:
        raise UserError("the main process stopped with an error; its output says why")
    return None if none else int(number)

"""Joining a job of several processes: by flags, or as the launcher describes it.

Slurm, Open MPI, Cloud TPU and Kubernetes leave variables in the environment of every process that
they start. `describe` reads them, and `join` passes what they say to `jax.distributed.initialize`.
"""

import contextlib
import dataclasses
import glob
import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping

import jax

from affect_jax.errors import UserError

log = logging.getLogger(__name__)

METHODS = ("auto", "off", "slurm", "openmpi", "tpu", "kubernetes")
START_TIMEOUT = 300
HEARTBEAT_TIMEOUT = 60
# Process 0 alone tests and draws the report, and the others wait for it; `watch` finds lost ones.
_SHUTDOWN_TIMEOUT = 24 * 3600
_SLURM = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_OPENMPI = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")
_FLAGS = "--coordinator HOST:PORT --num_processes N --process_id I"


@dataclasses.dataclass(frozen=True)
class Launch:
    """What a launcher says of this process; None: JAX finds it out, or it is not known.

    Attributes:
      launcher: its name, for people.
      num_processes, process_id: of the job.
      local_id, local_count: rank among the processes of this machine, and their number.
      knows_coordinator: whether JAX can derive the address of process 0.
    """

    launcher: str
    num_processes: int | None = None
    process_id: int | None = None
    local_id: int | None = None
    local_count: int | None = None
    knows_coordinator: bool = True


def describe(environ: Mapping[str, str], method: str = "auto") -> Launch | None:
    """Return how this process was launched; None: alone, or `method` is "off".

    Raises:
      UserError: the variables of a launcher are incomplete or contradict each other, or `method`
        names a launcher that has not started this process.
    """
    if method not in METHODS:
        raise UserError(f"--cluster {method!r}; choose of {', '.join(METHODS)}")
    if method == "off":
        return None
    finders = {"openmpi": _openmpi, "slurm": _slurm, "tpu": _tpu, "kubernetes": _kubernetes}
    for name, find in finders.items():
        if method in ("auto", name) and (launch := find(environ)) is not None:
            return launch
    if method != "auto":
        raise UserError(
            f"--cluster {method}: this process was not started by it (its variables are not set); "
            f"use --cluster auto or off, or give {_FLAGS}"
        )
    return None


def _openmpi(environ: Mapping[str, str]) -> Launch | None:
    if _OPENMPI[0] not in environ:
        return None
    count, rank, local = _numbers("Open MPI", environ, _OPENMPI)
    local_count = environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", "")
    return Launch(
        "Open MPI",
        count,
        rank,
        local,
        int(local_count) if local_count.isdigit() else None,
        # Open MPI 5 no longer tells where it was started from.
        knows_coordinator="OMPI_MCA_orte_hnp_uri" in environ,
    )


def _slurm(environ: Mapping[str, str]) -> Launch | None:
    # A batch script itself, without srun, is one process for any number of tasks.
    if "SLURM_STEP_NODELIST" not in environ or "SLURM_PROCID" not in environ:
        return None
    count, rank, local = _numbers("Slurm", environ, _SLURM)
    if not environ.get("SLURM_JOB_ID", "").isdigit():
        raise UserError(
            "Slurm started this process, but SLURM_JOB_ID is "
            f"{environ.get('SLURM_JOB_ID')!r}; use srun inside of a job, or --cluster off"
        )
    return Launch("Slurm", count, rank, local, _tasks_here(environ))


def _tpu(environ: Mapping[str, str]) -> Launch | None:
    hosts = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES", "")
    if not _has_tpu():
        return None
    if not hosts:
        return Launch("Cloud TPU")
    (rank,) = _numbers("Cloud TPU", environ, ("TPU_WORKER_ID",))
    count = len(hosts.split(","))
    if environ.get("MEGASCALE_NUM_SLICES", "1") != "1":
        return Launch("Cloud TPU (GKE), several slices")
    _check_rank("Cloud TPU", rank, count)
    return Launch("Cloud TPU (GKE)", count, rank)


def _kubernetes(environ: Mapping[str, str]) -> Launch | None:
    if "KUBERNETES_SERVICE_HOST" not in environ or "JOB_COMPLETION_INDEX" not in environ:
        return None
    if importlib.util.find_spec("kubernetes") is None:
        log.info(
            "this is a pod of an indexed Kubernetes job; to train on all of its pods, install "
            "jax[k8s], or give %s",
            _FLAGS,
        )
        return None
    (rank,) = _numbers("Kubernetes", environ, ("JOB_COMPLETION_INDEX",))
    return Launch("Kubernetes", None, rank)


def _has_tpu() -> bool:
    chips = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def _numbers(launcher: str, environ: Mapping[str, str], names: tuple[str, ...]) -> list[int]:
    """Return whole numbers of the environment; (size, rank ...) must fit each other."""
    for name in names:
        if not environ.get(name, "").isdigit():
            raise UserError(
                f"{launcher} started this process, but {name} is {environ.get(name)!r} instead of "
                f"a whole number; give {_FLAGS}, or train on this machine alone with --cluster off"
            )
    numbers = [int(environ[name]) for name in names]
    if len(numbers) > 1:
        _check_rank(launcher, numbers[1], numbers[0])
    return numbers


def _check_rank(launcher: str, rank: int, count: int) -> None:
    if rank >= count:
        raise UserError(
            f"{launcher} gives this process the rank {rank} of {count} processes; ranks count from "
            f"0. Give {_FLAGS}, or train on this machine alone with --cluster off"
        )


def _tasks_here(environ: Mapping[str, str]) -> int | None:
    """Return the tasks of this node, of SLURM_STEP_TASKS_PER_NODE such as "4(x2),3"."""
    text = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE", "")
    counts: list[int] = []
    for part in text.split(","):
        tasks, _, times = part.partition("(x")
        if not tasks.isdigit():
            return None
        counts += [int(tasks)] * int(times.rstrip(")") or 1)
    node = environ.get("SLURM_NODEID", "0")
    return counts[int(node)] if node.isdigit() and int(node) < len(counts) else None


def local_gpus(launch: Launch, visible: int, *, bound: bool = False) -> list[int] | None:
    """Return which GPUs of those that it sees this process uses; None: all.

    JAX would give every process the one GPU of its local rank. That leaves GPUs idle where a
    process has the whole machine, and names one that is not there where the launcher has already
    given each process its own.

    Args:
      launch: of this process.
      visible: number of GPUs that it sees.
      bound: whether the launcher shows each process its own GPUs alone.

    Raises:
      UserError: the processes of this machine cannot share its GPUs evenly.
    """
    count, rank = launch.local_count, launch.local_id
    if not visible or count is None or rank is None:
        return None
    # Fewer than processes can only be GPUs of its own, if it is one.
    if count == 1 or bound or visible == 1:
        return list(range(visible))
    if visible % count:
        raise UserError(
            f"{count} processes of this machine cannot share {visible} GPUs evenly; start one "
            "process a machine, one a GPU, or a number that divides the GPUs. Where each process "
            f"sees GPUs of its own, use --gpus-per-task (Slurm), or {_FLAGS} --cluster off"
        )
    share = visible // count
    return list(range(rank * share, (rank + 1) * share))


def _on_this_machine(environ: Mapping[str, str], method: str) -> Launch:
    """Return the rank on this machine of a process that flags describe, as far as it is known."""
    for name, find in {"openmpi": _openmpi, "slurm": _slurm}.items():
        with contextlib.suppress(UserError):
            if method in ("auto", name) and (found := find(environ)) is not None:
                return Launch("flags", local_id=found.local_id, local_count=found.local_count)
    return Launch("flags")


def _visible_gpus(environ: Mapping[str, str]) -> int:
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return len([part for part in listed.split(",") if part.strip() not in ("", "-1")])
    return len(glob.glob("/dev/nvidia[0-9]*"))


def join(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    method: str = "auto",
    start_timeout: int = START_TIMEOUT,
    heartbeat_timeout: int = HEARTBEAT_TIMEOUT,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Join a job of several processes; do nothing for a process of its own.

    What is not given is what the launcher says.

    Args:
      coordinator: HOST:PORT of process 0.
      num_processes: number of processes in the job.
      process_id: rank of this process, 0-based.
      method: one of `METHODS`: the launcher, "auto" for any, "off" for none.
      start_timeout: seconds to wait until all processes have joined.
      heartbeat_timeout: seconds after which a process that does not answer is lost, see
        `runtime.watch`.
      environ: variables of this process.

    Raises:
      UserError: the job is not described completely, or the others do not come in time.
    """
    given = (coordinator, num_processes, process_id)
    launch = None if None not in given else describe(environ, method)
    here = launch or _on_this_machine(environ, method)
    if given == (None, None, None) and (launch is None or launch.num_processes == 1):
        return
    if launch is not None:
        if num_processes is None:
            num_processes = launch.num_processes
        if process_id is None:
            process_id = launch.process_id
    _check(coordinator, num_processes, process_id, launch)
    gpus = local_gpus(
        here,
        _visible_gpus(environ),
        bound="SLURM_GPUS_PER_TASK" in environ,
    )
    log.info(
        "joining as process %s of %s (%s)%s",
        "?" if process_id is None else process_id,
        "?" if num_processes is None else num_processes,
        "by flags" if launch is None else f"started by {launch.launcher}",
        "" if gpus is None else f", with GPU {', '.join(map(str, gpus))} of this machine",
    )
    # Needed before the CPU backend starts, harmless on other platforms.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        with _limited(start_timeout, coordinator):
            jax.distributed.initialize(
                coordinator,
                num_processes,
                process_id,
                local_device_ids=gpus,
                cluster_detection_method="deactivate" if launch is None else None,
                initialization_timeout=start_timeout + _SHUTDOWN_TIMEOUT,
                # The watch of `runtime.watch` comes first; JAX aborts without an explanation.
                heartbeat_timeout_seconds=2 * heartbeat_timeout,
                shutdown_timeout_seconds=_SHUTDOWN_TIMEOUT,
            )
    except OSError as error:
        # On TPU machines JAX asks a server of Google's for the other machines.
        raise UserError(
            f"the machines of the job cannot be found ({error}); give {_FLAGS}, or train on this "
            "machine alone with --cluster off"
        ) from error
    except (RuntimeError, ValueError) as error:
        if launch is not None and launch.launcher == "Cloud TPU" and "defined" in str(error):
            log.info("this TPU machine belongs to no slice of several: it trains alone")
            return
        line = " ".join(str(error).split())[:300]
        raise UserError(_not_joined(f"failed to come together ({line})", coordinator)) from error


@contextlib.contextmanager
def _limited(seconds: int, coordinator: str | None) -> Iterator[None]:
    """End the process with a message after `seconds` in the block; JAX would abort it."""

    def leave() -> None:
        late = f"did not come together within {seconds} s (--start_timeout)"
        log.error("%s", _not_joined(late, coordinator))
        sys.stderr.flush()
        os._exit(2)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _check(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    launch: Launch | None,
) -> None:
    """Raise UserError unless the flags, or flags and launcher, describe a job."""
    parts = (coordinator, num_processes, process_id)
    if launch is None and None in parts:
        raise UserError(
            "--coordinator, --num_processes and --process_id belong together; give all three, "
            "for example --coordinator 10.0.0.1:1234 --num_processes 2 --process_id 0"
        )
    if launch is not None and coordinator is None and not launch.knows_coordinator:
        raise UserError(
            f"{launch.launcher} started {launch.num_processes} processes, but this version does "
            "not say on which machine process 0 runs; add --coordinator HOST:PORT, the name of "
            "that machine and any free port, or --cluster off to train on this machine alone"
        )
    if coordinator is not None:
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise UserError(
                f"--coordinator {coordinator!r}; give HOST:PORT, such as 10.0.0.1:1234: the "
                "machine of process 0 and a port that is free there"
            )
    if num_processes is not None and num_processes < 1:
        raise UserError(f"--num_processes {num_processes}; it must be at least 1")
    if num_processes is not None and not 0 <= (process_id or 0) < num_processes:
        raise UserError(
            f"--process_id {process_id}; with --num_processes {num_processes} it must lie between "
            f"0 and {num_processes - 1}"
        )


def _not_joined(what: str, coordinator: str | None) -> str:
    return (
        f"the processes of the job {what}. Check that all of them run, with the same --coordinator "
        "and --num_processes and different --process_id, and that "
        f"{coordinator or 'the machine of process 0'} can be reached from all machines (firewall, "
        "proxy variables, a port in use)"
    )

"""Jobs of several processes: what launchers say, GPUs shared, flags that do not fit."""

import logging
import socket
import subprocess
import sys

import jax
import pytest

from affect_jax.errors import UserError
from affect_jax.runtime import cluster
from affect_jax.runtime.cluster import Launch, describe, local_gpus
from tests.affect_jax import tiny

OPENMPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}
SLURM = {
    "SLURM_JOB_ID": "1234",
    "SLURM_STEP_NODELIST": "node[1-3]",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2),3",
    "SLURM_NTASKS": "11",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
}
GKE_TPU = {"TPU_WORKER_ID": "2", "TPU_WORKER_HOSTNAMES": "a-0,a-1,a-2,a-3"}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "5"}


@pytest.fixture
def tpu(monkeypatch):
    monkeypatch.setattr(cluster, "_has_tpu", lambda: True)


def packages(monkeypatch, *installed):
    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: name in installed or None)


def test_a_process_that_no_launcher_started_is_alone():
    assert describe({"PATH": "/bin", "HOSTNAME": "node1"}) is None
    # A batch script of Slurm without srun.
    assert describe({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}) is None
    # A pod of a deployment.
    assert describe({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) is None
    # Variables of a TPU slice on a machine without one.
    assert describe(GKE_TPU) is None


def test_open_mpi():
    assert describe(OPENMPI) == Launch("Open MPI", 4, 3, 1, 2)
    newer = {k: v for k, v in OPENMPI.items() if not k.startswith("OMPI_MCA")}
    assert describe(newer) == Launch("Open MPI", 4, 3, 1, 2, knows_coordinator=False)


@pytest.mark.parametrize(("node", "here"), [("0", 4), ("1", 4), ("2", 3), ("3", None), ("x", None)])
def test_slurm(node, here):
    """Tasks of each node are written as "4(x2),3"."""
    assert describe({**SLURM, "SLURM_NODEID": node}) == Launch("Slurm", 11, 9, 1, here)


def test_mpirun_inside_of_slurm_is_open_mpi():
    assert describe({**SLURM, **OPENMPI}).launcher == "Open MPI"
    assert describe({**SLURM, **OPENMPI}, "slurm").launcher == "Slurm"


def test_cloud_tpu(tpu):
    assert describe({}) == Launch("Cloud TPU")  # JAX asks the machine's metadata
    assert describe(GKE_TPU) == Launch("Cloud TPU (GKE)", 4, 2)
    addresses = {"TPU_WORKER_ID": "1", "TPU_PROCESS_ADDRESSES": "a:8476,b:8476"}
    assert describe(addresses) == Launch("Cloud TPU (GKE)", 2, 1)
    several = {**GKE_TPU, "MEGASCALE_NUM_SLICES": "2"}
    assert describe(several) == Launch("Cloud TPU (GKE), several slices")


def test_pods_of_an_indexed_job(monkeypatch, caplog):
    packages(monkeypatch, "kubernetes")
    assert describe(POD) == Launch("Kubernetes", None, 5)
    packages(monkeypatch)
    with caplog.at_level(logging.INFO):
        assert describe(POD) is None
    assert "install jax[k8s]" in caplog.text


def test_cluster_off_hides_every_launcher(tpu):
    assert describe({**OPENMPI, **SLURM, **GKE_TPU, **POD}, "off") is None
    cluster.join(method="off", environ={**OPENMPI, **SLURM})
    assert jax.process_count() == 1


@pytest.mark.parametrize(
    ("environ", "method", "match"),
    [
        ({**OPENMPI, "OMPI_COMM_WORLD_RANK": ""}, "auto", r"RANK is '' instead of a whole"),
        ({**OPENMPI, "OMPI_COMM_WORLD_RANK": "4"}, "auto", "rank 4 of 4 processes"),
        ({k: v for k, v in SLURM.items() if k != "SLURM_NTASKS"}, "auto", "NTASKS is None"),
        ({**SLURM, "SLURM_JOB_ID": ""}, "auto", "SLURM_JOB_ID is ''; use srun"),
        (SLURM, "openmpi", "--cluster openmpi: this process was not started by it"),
        ({}, "slurm", "--cluster slurm: this process was not started by it"),
        ({}, "mpi", "--cluster 'mpi'; choose of auto, off, slurm"),
    ],
)
def test_variables_that_cannot_be_right(environ, method, match):
    with pytest.raises(UserError, match=match):
        describe(environ, method)


def test_a_tpu_worker_outside_of_its_slice(tpu):
    with pytest.raises(UserError, match="rank 4 of 4 processes"):
        describe({**GKE_TPU, "TPU_WORKER_ID": "4"})
    with pytest.raises(UserError, match="TPU_WORKER_ID is None"):
        describe({"TPU_WORKER_HOSTNAMES": "a,b"})


@pytest.mark.parametrize(
    ("launch", "visible", "bound", "gpus"),
    [
        (Launch("flags"), 8, False, None),  # not known: JAX decides
        (Launch("Slurm", 2, 1, 0, 1), 8, False, [0, 1, 2, 3, 4, 5, 6, 7]),
        (Launch("Slurm", 16, 9, 1, 8), 8, False, [1]),
        (Launch("Open MPI", 4, 3, 1, 2), 8, False, [4, 5, 6, 7]),
        (Launch("Slurm", 16, 9, 1, 8), 1, False, [0]),  # each sees its own alone
        (Launch("Slurm", 8, 3, 1, 4), 4, True, [0, 1, 2, 3]),
        (Launch("Slurm", 8, 3, 1, 4), 2, True, [0, 1]),
        (Launch("Slurm", 8, 3, 1, 4), 0, False, None),
    ],
)
def test_processes_of_a_machine_share_its_gpus(launch, visible, bound, gpus):
    assert local_gpus(launch, visible, bound=bound) == gpus


@pytest.mark.parametrize(("count", "visible"), [(3, 8), (8, 4)])
def test_gpus_that_cannot_be_shared(count, visible):
    message = f"{count} processes of this machine cannot share {visible} GPUs evenly"
    with pytest.raises(UserError, match=message):
        local_gpus(Launch("Slurm", count, 0, 0, count), visible)


@pytest.mark.parametrize(
    ("listed", "count"), [("0,1,2", 3), ("GPU-2a,GPU-7b", 2), ("", 0), ("-1", 0)]
)
def test_visible_gpus(listed, count):
    assert cluster._visible_gpus({"CUDA_VISIBLE_DEVICES": listed}) == count


@pytest.mark.parametrize(
    ("flags", "environ", "match"),
    [
        (("h:1", None, 0), {}, "belong together; give all three"),
        ((None, 2, 0), {}, "belong together"),
        ((None, None, 1), {}, "belong together"),
        (("h", 2, 0), {}, "--coordinator 'h'; give HOST:PORT"),
        (("h:70000", 2, 0), {}, "--coordinator 'h:70000'"),
        ((":1", 2, 0), {}, "--coordinator ':1'"),
        (("h:1", 0, 0), {}, "--num_processes 0; it must be at least 1"),
        (("h:1", 2, 2), {}, r"--process_id 2; .*between 0 and 1"),
        (("h:1", 2, -1), {}, "--process_id -1"),
        ((None, None, None), {**OPENMPI, "OMPI_MCA_orte_hnp_uri": None}, "add --coordinator"),
    ],
)
def test_flags_that_describe_no_job(flags, environ, match):
    environ = {k: v for k, v in environ.items() if v is not None}
    with pytest.raises(UserError, match=match):
        cluster.join(*flags, environ=environ)


@pytest.fixture
def joined(monkeypatch):
    """Arguments that `join` gives to JAX, which joins nothing."""
    found: list = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: found.append((a, k)))
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    return found


def test_flags_complete_what_the_launcher_says(joined):
    environ = {k: v for k, v in OPENMPI.items() if not k.startswith("OMPI_MCA")}
    cluster.join("h:1", environ={**environ, "CUDA_VISIBLE_DEVICES": "0,1"}, heartbeat_timeout=30)
    ((arguments, options),) = joined
    assert arguments == ("h:1", 4, 3)
    assert options["local_device_ids"] == [1]
    # JAX would abort without an explanation: the watch comes first.
    assert options["heartbeat_timeout_seconds"] == 60


def test_all_flags_need_no_launcher(joined):
    cluster.join("h:1", 2, 1, environ={**SLURM, "SLURM_PROCID": "wrong"})
    ((arguments, options),) = joined
    assert arguments == ("h:1", 2, 1)
    assert options["cluster_detection_method"] == "deactivate"
    assert options["local_device_ids"] is None
    # The report is drawn on process 0 while the others wait.
    assert options["shutdown_timeout_seconds"] == 86_400


@pytest.mark.parametrize(
    ("environ", "gpus"), [(OPENMPI, [2, 3]), ({**SLURM, "SLURM_NODEID": "0"}, [1])]
)
def test_processes_with_all_flags_still_share_the_gpus_of_a_machine(joined, environ, gpus):
    cluster.join("h:1", 11, 9, environ={**environ, "CUDA_VISIBLE_DEVICES": "0,1,2,3"})
    ((arguments, options),) = joined
    assert arguments == ("h:1", 11, 9)
    assert options["cluster_detection_method"] == "deactivate"
    assert options["local_device_ids"] == gpus


def test_a_tpu_machine_without_a_metadata_server(tpu, monkeypatch):
    def initialize(*_, **__):
        raise OSError("metadata.google.internal: name not known")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    with pytest.raises(UserError, match=r"name not known.* alone with --cluster off"):
        cluster.join(environ={})


def test_a_launcher_of_one_process_needs_no_job(joined):
    cluster.join(environ={**OPENMPI, "OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"})
    cluster.join(environ={})
    assert joined == []


def test_a_tpu_machine_without_a_slice_trains_alone(tpu, monkeypatch, caplog):
    def initialize(*_, **__):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    with caplog.at_level(logging.INFO):
        cluster.join(environ={})
    assert "trains alone" in caplog.text
    with pytest.raises(UserError, match=r"failed to come together .*should be defined"):
        cluster.join("h:1", 2, 0, environ={})


@pytest.mark.slow
def test_processes_that_do_not_come_end_the_start():
    """Process 0 waits for a second one that is never started."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    code = (
        "from affect_jax import runtime; from affect_jax.runtime import cluster; "
        f"runtime.setup_logging(); cluster.join('{coordinator}', 2, 0, start_timeout=1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tiny.ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2, done.stderr
    output = done.stdout + done.stderr
    assert "did not come together within 1 s (--start_timeout)" in output
    assert f"{coordinator} can be reached from all machines" in output

"""Kernels of a trace: kinds, numbers per step, and the time without any."""

import gzip
import json

import pytest

from affect_jax.benchmark import kernels


def event(name, start, duration, thread=13, process=1):
    return {
        "ph": "X", "name": name, "ts": start, "dur": duration, "pid": process, "tid": thread
    }  # fmt: skip


def named(kind, name, process, thread=0):
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}}


# Two steps of 100 microseconds on the first of two devices. Their rows "XLA Ops" repeat the
# kernels, and the host's rows are no kernels.
EVENTS = [
    named("process_name", "/device:GPU:0", 1),
    named("process_name", "/device:GPU:1", 2),
    named("process_name", "/host:CPU", 3),
    named("thread_name", "Stream #13(Compute,MemcpyD2D)", 1, 13),
    named("thread_name", "Stream #14(Compute)", 1, 14),
    named("thread_name", "XLA Ops", 1, 99),
    named("thread_name", "Stream #13(Compute)", 2, 13),
    named("thread_name", "Stream #1 of the host", 3, 13),
    event("sm90_xmma_fprop_implicit_gemm_bf16", 1000, 40),
    event("loop_add_fusion", 1030, 20, thread=14),  # half of it during the convolution
    event("MemcpyD2D", 1060, 10),
    event("sm90_xmma_fprop_implicit_gemm_bf16", 1100, 60),
    event("loop_add_fusion", 1180, 20, thread=14),
    event("sm90_xmma_fprop_implicit_gemm_bf16", 1000, 40, thread=99),
    event("sm90_xmma_fprop_implicit_gemm_bf16", 1000, 400, process=2),
    event("python", 0, 9000, process=3),
]


def test_a_trace_of_two_steps():
    found = kernels.summary(EVENTS, 2)
    assert found["step_ms"] == pytest.approx(0.1)  # 1000 to 1200
    assert found["kernels"] == 2.5
    assert found["kernel_ms"] == pytest.approx(0.075)
    assert found["busy_ms"] == pytest.approx(0.07)
    # 1000 to 1050, 1060 to 1070, 1100 to 1160, 1180 to 1200
    assert found["idle_share"] == pytest.approx(1 - 140 / 200)
    assert list(found["kinds"]) == ["convolution", "element-wise", "copy"]
    assert found["kinds"]["convolution"] == pytest.approx({"ms": 0.05, "kernels": 1})
    assert found["top"][1] == {"name": "loop_add_fusion", "ms": 0.02, "kernels": 1}
    text = "\n".join(kernels.lines(found))
    assert "0.10 ms a step" in text and "idle 30.0 %" in text and "MemcpyD2D" in text


def test_a_trace_without_kernels():
    assert kernels.summary([e for e in EVENTS if e["pid"] == 3], 2) is None
    assert kernels.summary([], 1) is None


def test_a_trace_on_disk(tmp_path):
    folder = tmp_path / "plugins" / "profile"
    folder.mkdir(parents=True)
    with gzip.open(folder / "perfetto_trace.json.gz", "wt") as file:
        json.dump({"traceEvents": EVENTS}, file)
    assert kernels.read(tmp_path) == EVENTS
    assert kernels.read(folder / "nothing") == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ncclDevKernel_AllReduce_Sum_f32_RING_LL", "collective"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16", "attention"),
        ("sm80_xmma_wgrad_implicit_gemm_indexed_tf32f32", "convolution"),
        ("input_transpose_fusion_3", "copy"),
        ("void cudnn::ops::nchwToNhwcKernel<__nv_bfloat16>", "copy"),
        ("nvjet_tst_256x128_64x4_2x1_v_bz_coopA_NNT", "matrix product"),
        ("gemm_fusion_dot_12", "matrix product"),
        ("input_reduce_fusion_7", "reduction"),
        ("triton_softmax_5", "reduction"),
        ("loop_maximum_fusion", "element-wise"),
        ("loop_convert_fusion_2", "element-wise"),
        ("void at::native::vectorized_elementwise_kernel<4>", "element-wise"),
        ("what_is_this", "other"),
    ],
)
def test_kinds(name, kind):
    assert kernels.kind_of(name) == kind

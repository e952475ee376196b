"""Recorded outputs of the published implementations, and how to compare with them."""

import functools
import hashlib
import importlib.util
import json
import pathlib

import jax
import numpy as np
import pytest

from affect_jax import models
from affect_jax.models.state import take_apart
from affect_jax.weights import model_dir
from affect_jax.weights.released import convert

FOLDER = pathlib.Path(__file__).parents[1] / "data" / "golden"
DTYPES = ("float32", "float64")
# float64 shows that the computation is the same one; float32 as well where it is cheap or told.
MAINLY_DOUBLE = (pytest.param("float32", marks=pytest.mark.slow), "float64")

_spec = importlib.util.spec_from_file_location("golden_weights", FOLDER / "weights.py")
weights = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(weights)


@functools.cache
def manifest(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


@functools.cache
def arrays(name):
    with np.load(FOLDER / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


@functools.cache
def _tensor(name, shape, kind, gain):
    return weights.tensor(name, shape, kind, gain=gain)


@functools.cache
def state_dict(name):
    """The official entries, after a check that the generator still gives the recorded ones."""
    about = manifest(name)
    # Entries of equal name are equal in all networks and drawn once.
    state = {
        e["name"]: _tensor(about["prefix"] + e["name"], tuple(e["shape"]), e["kind"], about["gain"])
        for e in about["state_dict"]
        if e["kind"] != "int"
    }
    assert weights.digest(state.values()) == manifest(name)["state_sha256"]
    return state


@functools.cache
def pictures(name):
    """The recorded input, uint8 [B, H, W, 3]."""
    rule = manifest(name)["input"]
    found = weights.image_u8(name, rule["batch"], rule["size"], rule["size"])
    found.flags.writeable = False
    return found


def network_input(name, preprocessing):
    """float32 pictures as the network takes them, checked against the recorded digest."""
    x = np.asarray(pictures(name), np.float32) / np.float32(preprocessing.scale)
    x = weights.normalise(x, preprocessing.mean, preprocessing.std)
    assert (
        hashlib.sha256(x.tobytes()).hexdigest() == manifest(name)["input"]["sha256_of_nhwc_float32"]
    )
    return x


def build(architecture, name, dtype):
    """The model with the official weights, in evaluation mode; float64 under `precision`."""
    model = convert.build_model(convert.release(architecture), state_dict(name)).model
    _, params, _ = take_apart(model)
    assert sum(x.size for x in params.values()) == manifest(name)["n_parameters_used"]
    return model if dtype == "float32" else widen(model, architecture, name)


def widen(model, architecture, name):
    """The float64 model with the weights of `model`; under `precision`."""
    released = convert.release(architecture)
    arguments = released.infer(released.prepare(state_dict(name)))
    wide = models.create(released.model, **arguments, dtype="float64", param_dtype="float64")
    model_dir.assign(wide, model_dir.arrays_of(model))
    wide.eval()
    return wide


def precision(dtype):
    """Context in which arrays of `dtype` exist."""
    return jax.enable_x64(dtype == "float64")


def assert_recorded(name, output, got, dtype):
    """Compares an NHWC or [B, ...] result with a recorded output, within its tolerance."""
    info, bits = manifest(name)["outputs"][output], dtype[-2:]
    assert got.dtype == dtype
    if got.ndim == 4:
        got = got.transpose(0, 3, 1, 2)
    assert list(got.shape) == info["shape"][: got.ndim]
    difference = weights.sample(got, info["limit"]) - arrays(name)[f"out{bits}/{output}"].ravel()
    assert np.abs(difference).max() <= info[f"tolerance_f{bits}"], output
    if f"argmax/{output}" in arrays(name):
        peaks = got.reshape(*got.shape[:2], -1).argmax(-1)
        np.testing.assert_array_equal(peaks, arrays(name)[f"argmax/{output}"])

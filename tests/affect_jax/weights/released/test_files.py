"""What a weights file may be, and what else bears its name."""

import argparse
import pathlib

import ml_dtypes
import numpy as np
import pytest

from affect_jax.errors import UserError
from affect_jax.weights.released import files

torch = pytest.importorskip("torch")
WEIGHTS = {"a": torch.ones(3)}
ZEROS = {"a": torch.zeros(3)}


class Network(torch.nn.Linear):
    """Of a user's own code."""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.pth", b"", "it is empty"),
        ("w.safetensors", b"", "it is empty"),
        ("w.npz", b"", "it is empty"),
        ("w.pth", b"<html><body>Sign in</body></html>", "it is a web page"),
        ("w.pth", b"\xef\xbb\xbf\n <!DOCTYPE HTML>\n<html>", "it is a web page"),
        ("w.safetensors", b"<?xml version='1.0'?><Error>AccessDenied</Error>", "it is a web page"),
        ("w.npz", b"<!doctype html><html></html>", "it is a web page"),
        ("w.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("w.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("w.pth", b'{"error": "not authorised"}', r"a text file, which begins with '\{\"error\""),
        ("w.pth", b"\x1f\x8b\x08\x00rest", "compressed with gzip"),
        ("w.pth", b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        ("w.pth", b"PK\x03\x04 and no more", "the zip archive has no end"),
        ("w.npz", b"\x93NUMPY\x01\x00", "not a zip archive"),
    ],
)
def test_files_that_hold_no_weights_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        UserError, match=rf"{name} cannot be read as a .* weights file: .*{message}"
    ):
        files.read_weights(tmp_path / name)


def write(path: pathlib.Path, content) -> pathlib.Path:
    torch.save(content, path)
    return path


@pytest.mark.filterwarnings("ignore:.*torch.jit")  # Deprecated, and still what people send.
def test_archives_under_another_name(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "photos.pth", "w") as archive:
        archive.writestr("me.jpg", b"x")
    np.savez(tmp_path / "w.npz", a=np.ones(3))
    (tmp_path / "npz.pth").write_bytes((tmp_path / "w.npz").read_bytes())
    (tmp_path / "pth.npz").write_bytes(write(tmp_path / "w.pth", WEIGHTS).read_bytes())
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    (tmp_path / "tensors.bin").write_bytes((tmp_path / "w.safetensors").read_bytes())
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "script.pt")
    for name, message in {
        "photos.pth": "a zip archive of me.jpg; unpack it",
        "npz.pth": "an .npz archive of NumPy; rename it",
        "pth.npz": "PyTorch wrote it; rename it to .pth",
        "tensors.bin": "a safetensors file; rename it",
        "script.pt": r"a TorchScript archive.*state_dict\(\)",
    }.items():
        with pytest.raises(UserError, match=message):
            files.read_weights(tmp_path / name)


def test_an_averaged_model_of_pytorch_is_its_network(tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(torch.nn.DataParallel(torch.nn.Linear(2, 2)))
    state = averaged.state_dict()
    assert "n_averaged" in state
    read = files.read_weights(write(tmp_path / "w.pth", state))
    assert read.keys() == {"weight", "bias"}
    own = {"n_averaged": torch.ones(1), "weight": torch.ones(1)}
    assert files.read_weights(write(tmp_path / "w.pth", own)).keys() == own.keys()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("content", [torch.nn.Linear(2, 2), Network(2, 2), {"net": Network(2, 2)}])
def test_pickled_modules_are_not_run(tmp_path, content, zipped):
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"whose code is not run.*save model\.state_dict\(\)"):
        files.read_weights(tmp_path / "w.pth")


def test_a_pickle_of_another_program_gets_no_advice_to_run_it(tmp_path):
    import pickle

    (tmp_path / "w.pth").write_bytes(pickle.dumps({"a": np.ones(3)}))
    with pytest.raises(UserError) as raised:
        files.read_weights(tmp_path / "w.pth")
    assert "weights_only" not in str(raised.value) and str(raised.value).count("\n") == 0


def test_options_and_scores_among_the_weights_do_no_harm(tmp_path):
    content = {"model": WEIGHTS, "args": argparse.Namespace(lr=1), "best": np.float64(3)}
    assert files.read_weights(write(tmp_path / "w.pth", content)).keys() == {"a"}


def test_types_that_numpy_does_not_have(tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    values = torch.tensor([1.0, -2.5, 384.0])
    types = {"b": torch.bfloat16, "h": torch.float16, "f": torch.float32, "d": torch.float64}
    state = {name: values.to(dtype) for name, dtype in types.items()}
    save_file(state | {"i": torch.arange(2), "t": torch.tensor(True)}, tmp_path / "w.safetensors")
    np.savez(tmp_path / "w.npz", b=values.numpy().astype(ml_dtypes.bfloat16))
    read = files.read_weights(tmp_path / "w.safetensors")
    for name in types:
        assert read[name].dtype == np.float32
        np.testing.assert_array_equal(read[name], values.numpy())
    assert read["i"].tolist() == [0, 1] and read["t"].shape == ()
    np.testing.assert_array_equal(files.read_weights(tmp_path / "w.npz")["b"], values.numpy())


@pytest.mark.parametrize(
    ("content", "taken", "others"),
    [
        ({"model": WEIGHTS, "model_ema": ZEROS}, "model_ema", ("model",)),
        ({"state_dict": WEIGHTS, "state_dict_ema": ZEROS}, "state_dict_ema", ("state_dict",)),
        ({"model": WEIGHTS, "ema_model": ZEROS}, "ema_model", ("model",)),
        ({"net": WEIGHTS, "SWA_state_dict": ZEROS}, "SWA_state_dict", ("net",)),
        ({"model": WEIGHTS, "ema": {"decay": 0.9, "shadow": ZEROS}}, "ema", ("model",)),
        ({"model": WEIGHTS, "modelEMA": ZEROS}, "modelEMA", ("model",)),
        ({"model": WEIGHTS, "EMAModel": ZEROS}, "EMAModel", ("model",)),
        ({"model": WEIGHTS, "emamodel": ZEROS}, "emamodel", ("model",)),
        ({"student": WEIGHTS, "teacher": ZEROS}, "teacher", ("student",)),
        ({"model": WEIGHTS, "optimizer": {"state": {}, "param_groups": []}}, "model", ()),
        ({"mine": WEIGHTS, "epoch": 3}, "mine", ()),
        (WEIGHTS, "", ()),
    ],
)
def test_averaged_weights_come_first_and_others_are_told(tmp_path, content, taken, others):
    found = files.open_weights(write(tmp_path / "w.pth", content))
    assert (found.entry, found.others) == (taken, others)
    assert found.state["a"].max() == (0 if others else 1)
    for other in others:
        chosen = files.open_weights(tmp_path / "w.pth", entry=other)
        assert chosen.entry == other and chosen.state["a"].max() == 1


TEN = {f"layer{k}.weight": torch.ones(3) for k in range(10)}
LOSS = {"train": torch.ones(2), "test": torch.ones(2)}


@pytest.mark.parametrize(
    ("content", "taken"),
    [
        ({"state_dict": TEN, "average": {"loss": torch.ones(())}}, "state_dict"),
        ({"model": TEN, "avg_loss": LOSS}, "model"),
        ({"model": TEN, "avg_loss": LOSS, "loss": LOSS}, "model"),
        ({"model": TEN, "ema": LOSS}, "model"),
        ({"avg_model": TEN, "epoch": 3}, "avg_model"),
        # Without buffers, and as torch.optim.swa_utils writes it.
        (
            {
                "model": TEN | {f"layer{k}.num_batches": torch.ones(()) for k in range(10)},
                "swa": {f"module._orig_mod.{k}": v for k, v in TEN.items()}
                | {"n_averaged": torch.ones(())},
            },
            "swa",
        ),
    ],
)
def test_averaged_losses_are_not_averaged_weights(tmp_path, content, taken):
    found = files.open_weights(write(tmp_path / "w.pth", content))
    assert found.entry == taken and found.state.keys() == TEN.keys()


def test_of_two_averages_none_is_guessed(tmp_path):
    content = {"model": TEN, "ema_model": TEN, "swa_model": TEN}
    path = write(tmp_path / "w.pth", content)
    several = "several averaged state dicts: ema_model, swa_model; choose one with --entry"
    with pytest.raises(UserError, match=several):
        files.open_weights(path)
    assert files.open_weights(path, entry="swa_model").others == ("ema_model", "model")
    write(path, {"mine": TEN, "avg_loss": LOSS})
    with pytest.raises(UserError, match="several state dicts: avg_loss, mine; choose one"):
        files.open_weights(path)


def test_the_log_tells_which_weights_a_start_takes(tmp_path, caplog):
    with caplog.at_level("INFO", "affect_jax"):
        files.read_weights(write(tmp_path / "w.pth", {"model": WEIGHTS, "model_ema": ZEROS}))
    assert "entry model_ema is used; there is model too" in caplog.text


def test_entries_that_are_not_there(tmp_path):
    path = write(tmp_path / "w.pth", {"model": WEIGHTS, "model_ema": ZEROS})
    with pytest.raises(UserError, match="no state dict 'modle'; did you mean 'model'"):
        files.open_weights(path, entry="modle")
    with pytest.raises(UserError, match="leave out --entry"):
        files.open_weights(write(path, WEIGHTS), entry="model")
    with pytest.raises(UserError, match="several state dicts: one, two; choose one with --entry"):
        files.open_weights(write(path, {"one": WEIGHTS, "two": ZEROS}))
    assert files.open_weights(path, entry="two").state["a"].max() == 0


def test_prefixes(tmp_path):
    path = tmp_path / "w.pth"
    write(path, {f"module._orig_mod.{k}": v for k, v in {"a": ZEROS["a"], "b": ZEROS["a"]}.items()})
    assert files.open_weights(path).state.keys() == {"a", "b"}
    write(path, {"state_dict": {"net.a": ZEROS["a"], "loss.w": ZEROS["a"]}})
    found = files.open_weights(path, strip_prefix="net.")
    assert found.state.keys() == {"a"} and found.left_out == ("loss.w",)
    with pytest.raises(UserError, match=r"no entry begins with --strip_prefix='ner\.'.*net\.a"):
        files.open_weights(path, strip_prefix="ner.")
    student = {"module.backbone.a": WEIGHTS["a"], "module.head.b": WEIGHTS["a"]}
    write(path, {"student": student, "teacher": {"backbone.a": ZEROS["a"], "head.b": ZEROS["a"]}})
    for entry in ("teacher", "student"):
        found = files.open_weights(path, entry=entry)
        assert found.state.keys() == {"a"} and found.left_out == ("head.b",)


def test_a_folder_is_answered_with_the_files_in_it(tmp_path):
    write(tmp_path / "pytorch_model.bin", WEIGHTS)
    with pytest.raises(UserError, match=r"is a folder; name a file in it: pytorch_model\.bin"):
        files.read_weights(tmp_path)


def test_entries_that_are_numbers(tmp_path):
    path = tmp_path / "folds.pth"
    torch.save({0: {"w": torch.zeros(1)}, 1: {"w": torch.ones(1)}}, path)
    assert files.open_weights(path, entry="1").state["w"] == 1
    with pytest.raises(UserError, match="holds several state dicts: 0, 1; choose one with --entry"):
        files.open_weights(path)

"""Memory of train steps: the line through two batches, and the compiler's figures."""

import json

import pytest

from affect_jax.benchmark import memory, programs, targets
from affect_jax.benchmark.memory import GIB, Case
from affect_jax.errors import UserError
from tests.affect_jax import tiny


def test_largest_batch_lies_on_the_line_through_both():
    # 1 GiB and 1/16 GiB an image: 0.9 * 16 - 1 = 13.4 GiB hold 214 images.
    points = (16, 2 * GIB), (64, 5 * GIB)
    assert memory.largest_batch(*points, 16) == 208
    assert memory.largest_batch(*points, 1.0) == 0
    with pytest.raises(UserError, match=r"batches of 16 and 64 .* do not grow"):
        memory.largest_batch((16, GIB), (64, GIB), 16)


def test_only_models_with_blocks_that_can_be_computed_again_have_that_policy():
    assert memory._policies("none,blocks", "vit_b16") == ["none", "blocks"]
    assert memory._policies("none,blocks", "resnet50") == ["none"]


def test_rows_have_both_peaks_and_a_batch_for_every_device():
    peaks = {Case("vit_se", "none", 16): 2 * GIB, Case("vit_se", "none", 64): 5 * GIB}
    found = memory.rows(peaks, "some device")
    assert [r["value"] for r in found[:2]] == [2.0, 5.0]
    assert {r["metric"]: r["value"] for r in found[2:]} == {
        "largest_batch_16_gib": 208,
        "largest_batch_24_gib": 328,
        "largest_batch_80_gib": 1136,
        "largest_batch_140_gib": 2000,
    }


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """A function of options that gives the rows of a network of 600,000 weights."""

    def small(name, dtype, remat):
        config = tiny.one_block()
        config.model.dtype, config.model.remat = dtype, remat
        return config

    def measure(*options):
        file = tmp_path / "rows.json"
        given = ["--systems=vit_se", "--remat=none", f"--json={file}", *options]
        assert memory.main(given) == 0
        return json.loads(file.read_text())

    monkeypatch.setattr(programs, "full_size", small)
    return measure


# Adam holds three copies.
WEIGHTS = 3 * 4 * 600_000 / GIB


def test_the_compiler_counts_weights_and_activations(measured, capsys):
    """A larger batch needs more."""
    first, second, *batches = measured("--batch_sizes=2,32", "--dtype=float32")
    assert WEIGHTS < first["value"] < second["value"] < 1
    assert [r["value"] for r in batches] == sorted(r["value"] for r in batches)
    assert "largest_batch_16_gib" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["h200", "v5e"])
def test_the_memory_of_an_absent_device(name, measured):
    try:
        about = targets.find(name).about
    except UserError as missing:
        pytest.skip(str(missing))
    first, second, *batches = measured("--batch_sizes=8,64", f"--target={name}")
    assert WEIGHTS < first["value"] < second["value"] < 1
    for row in (first, second, *batches):
        assert row["device"] == f"{about}, bfloat16"


@pytest.mark.parametrize(
    ("option", "match"),
    [
        ("--batch_sizes=16", "two different numbers"),
        ("--batch_sizes=a,b", "two whole numbers"),
        ("--remat=all", "choose of none,products,blocks"),
        ("--systems=vit", "no system 'vit'"),
    ],
)
def test_wrong_options_are_explained(option, match, capsys):
    assert memory.main([option]) == 2
    assert match in capsys.readouterr().err

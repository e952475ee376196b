"""The study of balancing, at a size that runs in seconds."""

import numpy as np

from affect_jax.benchmark import balancing


def test_the_share_of_wrong_labels_and_the_pairing():
    clean, noisy = (balancing.points(3, 2000, noise) for noise in (0.0, 0.2))
    np.testing.assert_array_equal(clean[0], noisy[0])
    assert 0.17 < np.mean(clean[1] != noisy[1]) < 0.23


def test_a_row_has_what_its_model_gives(monkeypatch, capsys):
    for name, value in {"TRAIN": 128, "TEST": 64, "BATCH": 16, "STEPS": 30}.items():
        monkeypatch.setattr(balancing, name, value)
    monkeypatch.setattr(balancing, "ROWS", {k: balancing.ROWS[k] for k in ("none", "K = 1")})
    assert balancing.main(["--seeds", "2", "--noise", "0"]) == 0
    header, _, none, one = capsys.readouterr().out.strip().splitlines()
    assert header.count("|") == none.count("|") == one.count("|") == len(balancing.COLUMNS) + 3
    cells = dict(zip(header.split("|")[2:], one.split("|")[2:], strict=True))
    accuracy = float(cells[" accuracy "].split("±")[0])
    assert 0.2 < accuracy <= 1  # 30 steps are enough to be above chance, 0.125
    assert (
        "±" in cells[" C(t) "]
        and not dict(zip(header.split("|")[2:], none.split("|")[2:], strict=True))[" C(t) "].strip()
    )

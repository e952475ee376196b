"""What the rows of a manifest have in common: valence with arousal, and their scale."""

import pytest

from data_pipelines.schema import DataError
from tests.data_pipelines.made_images import encode, manifest_source, smooth, write_csv

PICTURE = encode(smooth(8, 8))


def read(tmp_path, valence, arousal):
    pairs = zip(valence, arousal, strict=True)
    rows = [(f"{k}.jpg", *pair) for k, pair in enumerate(pairs)]
    for path, *_ in rows:
        (tmp_path / path).write_bytes(PICTURE)
    write_csv(tmp_path / "m.csv", ("path", "valence", "arousal"), rows)
    return manifest_source(tmp_path / "m.csv")


@pytest.mark.parametrize("there", ["valence", "arousal"])
def test_valence_or_arousal_alone_is_refused(tmp_path, there):
    columns = [0.5, -0.5, ""], ["", "", -2]
    with pytest.raises(DataError, match=f"2 rows have a {there}, and none has an"):
        read(tmp_path, *(columns if there == "valence" else columns[::-1]))


def test_a_scale_that_begins_at_0_is_warned_of(tmp_path, caplog):
    arousal = [0.1] * 30
    read(tmp_path, [k / 29 for k in range(30)], arousal)
    assert "none of the 30 values of valence is negative (0 to 1)" in caplog.text
    caplog.clear()
    read(tmp_path, [k / 29 for k in range(29)] + [-0.1], arousal)
    assert "negative" not in caplog.text

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


@pytest.mark.parametrize("column", ["valence", "arousal"])
@pytest.mark.parametrize("others", ["", 0.25])
def test_a_stray_valence_or_arousal_is_bad_where_no_row_has_the_other(tmp_path, column, others):
    rows = [(f"{k}.jpg", ("sad", "happy")[k % 2], others, others) for k in range(20)]
    rows[7] = (*rows[7][:2], *((0.5, "") if column == "valence" else ("", 0.5)))
    for path, *_ in rows:
        (tmp_path / path).write_bytes(PICTURE)
    write_csv(tmp_path / "m.csv", ("path", "expression", "valence", "arousal"), rows)
    source = manifest_source(tmp_path / "m.csv")
    if others != "":
        # Losses and metrics leave out the empty one alone.
        assert not source.bad_rows and len(source) == 20
        return
    ((number, path, reason),) = source.bad_rows
    assert (number, path) == (9, "7.jpg") and len(source) == 19
    absent = {"valence": "arousal", "arousal": "valence"}[column]
    assert reason == f"{column}, and no row has {absent}; fill both columns, or empty both"


def test_bad_rows_of_two_manifests_keep_their_lines(tmp_path):
    rows = [(f"{k}.jpg", ("sad", "happy")[k % 2], "", "") for k in range(20)]
    rows[3] = (*rows[3][:2], 0.5, "")
    rows[18] = rows[19] = ("gone.jpg", "sad", "", "")
    for path, *_ in rows[:18]:
        (tmp_path / path).write_bytes(PICTURE)
    header = ("path", "expression", "valence", "arousal")
    write_csv(tmp_path / "a.csv", header, rows)
    write_csv(tmp_path / "b.csv", header, [("none.jpg", "sad", "", "")])
    source = manifest_source(f"{tmp_path / 'a.csv'},{tmp_path / 'b.csv'}", max_bad_fraction=0.5)
    lines = [row.number for row in source.bad_rows]
    assert lines == [5, 20, 21, 23]  # the second manifest's line 2 follows 21 lines


def test_a_scale_that_begins_at_0_is_warned_of(tmp_path, caplog):
    arousal = [0.1] * 30
    read(tmp_path, [k / 29 for k in range(30)], arousal)
    assert "none of the 30 values of valence is negative (0 to 1)" in caplog.text
    caplog.clear()
    read(tmp_path, [k / 29 for k in range(29)] + [-0.1], arousal)
    assert "negative" not in caplog.text

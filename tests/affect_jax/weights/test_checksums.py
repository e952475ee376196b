"""Checksums: every changed, cut, missing file is named; others are not looked at."""

import json

import pytest

from affect_jax.weights import checksums


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "arrays/deep").mkdir(parents=True)
    (tmp_path / "arrays/deep/a b ü").write_bytes(bytes(range(256)) * 100)
    (tmp_path / "arrays/empty").write_bytes(b"")
    (tmp_path / "record").write_text("{}")
    checksums.write(tmp_path)
    return tmp_path


def test_a_whole_folder_passes_and_more_files_do_not_matter(folder):
    recorded = json.loads((folder / checksums.CHECKSUMS_FILE).read_text())
    assert list(recorded) == ["arrays/deep/a b ü", "arrays/empty", "record"]
    (folder / "arrays/later").write_text("x")
    assert checksums.check(folder) == []
    assert checksums.check(folder / "arrays") is None


@pytest.mark.parametrize("place", [0, 1, 12_800, 25_599])
def test_a_flipped_bit_is_noticed_anywhere(folder, place):
    path = folder / "arrays/deep/a b ü"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert checksums.check(folder) == ["arrays/deep/a b ü is not as it was written"]
    assert checksums.check(folder, ["record", "arrays/empty"]) == []
    assert len(checksums.check(folder, ["arrays"])) == 1


def test_cut_grown_and_missing_files_are_named(folder):
    (folder / "arrays/deep/a b ü").write_bytes(bytes(range(256)))
    (folder / "arrays/empty").write_bytes(b"x")
    (folder / "record").unlink()
    assert checksums.check(folder) == [
        "arrays/deep/a b ü is not as it was written",
        "arrays/empty is not as it was written",
        "record is missing",
    ]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"record": '])
def test_damaged_checksums_are_damage(folder, content):
    (folder / checksums.CHECKSUMS_FILE).write_text(content)
    (line,) = checksums.check(folder)
    assert "checksums.json cannot be read" in line


def test_parts_are_whole_names(folder):
    (folder / "arrays2").mkdir()
    (folder / "arrays2/x").write_text("x")
    found = checksums.digests(folder, ["arrays"])
    assert list(found) == ["arrays/deep/a b ü", "arrays/empty"]
    checksums.write(folder)
    (folder / "arrays2/x").write_text("y")
    assert checksums.check(folder, ["arrays"]) == []

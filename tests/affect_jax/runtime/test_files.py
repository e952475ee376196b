"""Files and folders appear whole or not at all."""

import pytest

from affect_jax.runtime import replace_folder, write_atomically


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, None)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_whole_or_stays(tmp_path):
    folder = tmp_path / "deep/folder"
    with replace_folder(folder) as new:
        (new / "a").write_text("1")
        assert not folder.exists()
    with pytest.raises(RuntimeError), replace_folder(folder) as new:
        (new / "a").write_text("2")
        raise RuntimeError
    assert (folder / "a").read_text() == "1"
    with replace_folder(folder) as new:
        (new / "b").write_text("3")
    assert [p.name for p in folder.iterdir()] == ["b"]
    assert list(folder.parent.iterdir()) == [folder]

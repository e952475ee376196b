"""Files of word vectors: forms, memory, damage."""

import gzip
import pathlib
import pickle
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affect_jax.errors import UserError
from affect_jax.weights import word_vector_files
from affect_jax.weights.word_vector_files import BINARY, GLOVE_TEXT, WORD2VEC_TEXT

WORDS = {
    "</s>": [0.5, -0.25, 3.0],
    "fear": [1.0, 2.0, -4.0],
    "naïve": [0.1, 0.2, 0.3],
    "awe_struck": [-1.0, 0.0, 1e-5],
}


def binary(words, newline=b"", header=None) -> bytes:
    features = len(next(iter(words.values())))
    rows = [k.encode() + b" " + np.array(v, "<f4").tobytes() + newline for k, v in words.items()]
    return (header or b"%d %d\n" % (len(words), features)) + b"".join(rows)


def text(words, header=b"", end=b"\n") -> bytes:
    lines = [" ".join([k, *map(str, v)]).encode() + end for k, v in words.items()]
    return header + b"".join(lines)


FORMS = {
    "word2vec": (BINARY, binary(WORDS)),
    "word2vec with newlines": (BINARY, binary(WORDS, newline=b"\n")),
    "text": (WORD2VEC_TEXT, text(WORDS, header=b"4 3\n")),
    "text with spaces at the ends": (WORD2VEC_TEXT, text(WORDS, b"4 3\n", end=b" \n")),
    "text with tabs": (WORD2VEC_TEXT, text(WORDS, b"4\t3\r\n", b"\r\n").replace(b" ", b"\t")),
    "glove": (GLOVE_TEXT, text(WORDS)),
    "glove with a mark": (GLOVE_TEXT, b"\xef\xbb\xbf" + text(WORDS)),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", FORMS)
def test_forms_are_told_from_content(tmp_path, name, packed):
    form, content = FORMS[name]
    path = tmp_path / "vectors.dat"
    path.write_bytes(gzip.compress(content) if packed else content)
    file = word_vector_files.inspect(path)
    assert (file.form, file.features) == (form, 3)
    found = dict(file.entries({*WORDS, "absent"}))
    assert found.keys() == WORDS.keys()
    for word, vector in found.items():
        np.testing.assert_array_equal(vector, np.array(WORDS[word], np.float32))
        assert vector.dtype == np.float32


@given(
    features=st.integers(1, 70),
    newline=st.sampled_from([b"", b"\n"]),
    seed=st.integers(0, 1000),
    chunk=st.integers(1, 600),
)
def test_binary_vectors_of_any_bytes(tmp_path_factory, features, newline, seed, chunk):
    draw = np.random.default_rng(seed)
    raw = draw.integers(0, 2**32, (9, features), np.uint32).view(np.float32)
    raw[~np.isfinite(raw) | (raw == 0)] = 1
    words = {f"w{'x' * i}": row for i, row in enumerate(raw)}
    path = tmp_path_factory.getbasetemp() / "any.bin"
    path.write_bytes(binary(words, newline))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(word_vector_files, "_CHUNK", chunk)
        patch.setattr(word_vector_files, "_LONGEST_WORD", 40)
        found = dict(word_vector_files.inspect(path).entries(words))
    assert found.keys() == words.keys()
    assert all(np.array_equal(found[word], words[word]) for word in words)


def write_big(path: pathlib.Path, form: str, megabytes: int, last: dict) -> None:
    """Write a file of 300 features in which the words of `last` come last."""
    draw = np.random.default_rng(0)
    rows = [draw.standard_normal(300).astype("<f4") for _ in range(50)]
    records = [
        row.tobytes() if form == BINARY else " ".join(map("{:.5f}".format, row)).encode() + b"\n"
        for row in rows
    ]
    count = int(megabytes * 1e6 / len(records[0]))
    with path.open("wb") as file:
        if form != GLOVE_TEXT:
            file.write(b"%d 300\n" % (count + len(last)))
        for number in range(count):
            file.write(b"w%d " % number + records[number % 50])
        tail = binary(last, header=b"x") if form == BINARY else text(last, header=b"x")
        file.write(tail[1:])


LAST = {"wanted": np.arange(1, 301, dtype=np.float32)}


@pytest.mark.parametrize("form", [BINARY, GLOVE_TEXT])
def test_memory_stays_flat(tmp_path, form):
    write_big(tmp_path / "big", form, 30, LAST)
    tracemalloc.start()
    found = dict(word_vector_files.inspect(tmp_path / "big").entries({"wanted", "absent"}))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found["wanted"], LAST["wanted"])
    assert peak < 5e6, f"{peak / 1e6:.1f} MB were held to read a file of 30 MB"


MEASURE = """
import pathlib, resource, sys
from affect_jax.weights import word_vector_files
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
small, big = map(pathlib.Path, sys.argv[1:])
dict(word_vector_files.inspect(small).entries({"wanted"}))
before = peak()
assert dict(word_vector_files.inspect(big).entries({"wanted"}))
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", [BINARY, WORD2VEC_TEXT])
def test_resident_size_stays_flat(tmp_path, form):
    write_big(tmp_path / "small", form, 5, LAST)
    write_big(tmp_path / "big", form, 400, LAST)
    command = [sys.executable, "-c", MEASURE, tmp_path / "small", tmp_path / "big"]
    out = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    assert int(out.stdout) < 4_000, f"grew by {out.stdout} KiB while reading 400 MB"


def test_reading_stops_where_the_caller_does(tmp_path):
    # The rest of the file is damaged, and is not read.
    (tmp_path / "cut.bin").write_bytes(binary(WORDS)[:-5])
    entries = word_vector_files.inspect(tmp_path / "cut.bin").entries(WORDS)
    assert [next(entries)[0] for _ in range(3)] == ["</s>", "fear", "naïve"]
    with pytest.raises(UserError, match="truncated"):
        next(entries)


def failure(path: pathlib.Path, content: bytes, wanted=("nothing",)) -> str:
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        list(word_vector_files.inspect(path).entries(wanted))
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b" \n\n", "it is empty"),
        (b"<!DOCTYPE html><html>Sign in</html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git lfs pull"),
        (pickle.dumps({"fear": [1.0]}), "save_word2vec_format"),
        (b"\xba\x16\x4f\x2f\x0c\x00\x00\x00", r"use the .vec file"),
        (b"\x93NUMPY\x01\x00", "an array of NumPy"),
        (b'{"error": "not authorised"}\n', 'its first line, \'{"error"'),
        (b"words\nfear\n", "is neither two counts"),
        (b"0 300\n", "promises 0 words of 300"),
        (b"3 999999\nfear 1 2\n", "promises 3 words of 999999"),
        (bytes(range(256)) * 9, "is neither two counts"),
    ],
)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_files_that_hold_no_word_vectors(tmp_path, content, message, packed):
    said = failure(tmp_path / "vectors.bin", gzip.compress(content) if packed else content)
    assert message in said and "cannot be read as word vectors" in said


def test_missing_files_folders_and_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "glove.zip", "w") as archive:
        archive.writestr("glove.6B.50d.txt", text(WORDS))
    for name, message in [
        ("glove.zip", "it is a zip archive; unpack it"),
        ("absent.bin", "does not exist"),
        ("", "is a folder; name a file in it"),
    ]:
        with pytest.raises(UserError, match=message):
            word_vector_files.inspect(tmp_path / name)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "secret.txt").write_bytes(text(WORDS))
    monkeypatch.setattr(word_vector_files, "_opened", refuse)
    with pytest.raises(UserError, match=r"cannot be read as word vectors: .*Permission denied"):
        word_vector_files.inspect(tmp_path / "secret.txt")


FOUR = text({f"w{i}": [0.5, 1.5, 2.5] for i in range(4)})  # 16 bytes a line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # word2vec binary: 4 words of 3 features; `fear` begins at byte 21.
        (binary(WORDS)[:27], "it ends at byte 27, in word 2 of the 4"),
        (binary(WORDS)[:21], "it ends at byte 21, in word 2 of the 4"),
        (binary(WORDS) + b"fear 123", "it goes on after its 4 words, at byte 80"),
        (binary(WORDS, header=b"4 2\n"), "it goes on after its 4 words"),
        (binary(WORDS, header=b"4 30\n"), "it ends at byte 81, in word 1 of the 4"),
        (b"9 3\n" + b"\xff" * 9000, "no word ends within 4096 bytes after byte 4, where word 1"),
        # Text, told by line.
        (b"9 3\n" + FOUR, "it ends after 4 of the 9 words that line 1 promises"),
        (b"4 3\n" + FOUR[:-8] + b"\n", "line 5 has fewer than 3 numbers"),
        (b"4 5\n" + FOUR, "line 2 has fewer than 5 numbers"),
        (FOUR + b"w5 1\n", "line 5 has fewer than 3 numbers"),
        (FOUR + b"<html>", "line 5 has fewer than 3 numbers"),
    ],
)
def test_damage_is_told_by_place(tmp_path, content, message):
    said = failure(tmp_path / "vectors", content)
    assert message in said and "truncated, damaged or of another form: get the file again" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"4 2\n" + FOUR, "line 3, 'w1', has 3 numbers"),
        (FOUR.replace(b"w1 0.5", b"w1 0,5"), "line 2, 'w1', has a field that is no number"),
        (FOUR.replace(b"w1 0.5", b"w1 nan"), r"'w1' (in line 2) has values that are not finite"),
        (FOUR.replace(b"w1 0.5", b"w1 1e99"), r"'w1' (in line 2) has values that are not finite"),
        (text({"a": [1, 2], "w1": [0, 0]}), "'w1' (in line 2) is all zeros"),
        (binary({"a": [1, 2], "w1": [np.inf, 0]}), "'w1' (at byte 17) has values that are not"),
        (binary({"w1": [0.0, 0.0]}), "'w1' (at byte 7) is all zeros"),
        # A number that was cut is still a number.
        (text({"a": [1, 2], "w1": [0.5, 0.25]})[:-2], "line 2, 'w1', has no end"),
    ],
)
def test_damage_of_a_wanted_word(tmp_path, content, message):
    assert message in failure(tmp_path / "vectors", content, wanted=["w1"])


@pytest.mark.parametrize("form", ["word2vec", "glove"])
def test_gzip_that_breaks_off(tmp_path, form):
    draw = np.random.default_rng(0)
    words = {f"w{i}": draw.standard_normal(300) for i in range(300)}
    packed = gzip.compress(binary(words) if form == "word2vec" else text(words))
    said = failure(tmp_path / "cut.gz", packed[:-20_000])
    assert "its gzip stream breaks off after" in said
    assert "cannot be read" in failure(tmp_path / "short.gz", packed[:90])
    damaged = bytearray(packed)
    damaged[-5] ^= 1  # the length in its last bytes
    assert "its gzip stream breaks off after" in failure(tmp_path / "bad.gz", bytes(damaged))


def test_words_with_spaces_are_no_damage(tmp_path):
    (tmp_path / "glove").write_bytes(FOUR + b"w2 at home 1 2 3\nfear 1 2 3\n")
    found = list(word_vector_files.inspect(tmp_path / "glove").entries({"w2", "fear"}))
    assert [word for word, _ in found] == ["w2", "fear"]
    np.testing.assert_array_equal(found[0][1], [0.5, 1.5, 2.5])

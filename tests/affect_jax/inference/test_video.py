import builtins
import struct

import cv2
import numpy as np
import pytest

from affect_jax.errors import UserError
from affect_jax.inference import video
from affect_jax.inference.video import read_video
from data_pipelines.schema import DecodeError
from tests.affect_jax.inference import media

TURNS = {  # display matrix a b, c d -> the corner in which the bright one of `corner` lands
    "none": ((1, 0, 0, 1), (0, 0)),
    "clockwise": ((0, 1, -1, 0), (0, 1)),
    "half": ((-1, 0, 0, -1), (1, 1)),
    "anticlockwise": ((0, -1, 1, 0), (1, 0)),
    "mirrored": ((-1, 0, 0, 1), (0, 1)),
}


def numbered(count, height=48, width=64):
    """Frames whose brightness says which they are; the top left corner is brighter."""
    frames = []
    for i in range(count):
        frame = np.full((height, width, 3), 4 * (i % 40), np.uint8)
        frame[: height // 4, : width // 4] = 255
        frames.append(frame)
    return frames


def turned(path, a, b, c, d):
    """Write a display matrix into the header of an MP4 file (ISO/IEC 14496-12, 8.3.2)."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44
    matrix = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    data[start : start + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(data)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return media.write_video(tmp_path_factory.mktemp("video") / "plain.mp4", numbered(30))


def test_all_frames_come_in_order_with_their_times(plain):
    frames = list(read_video(plain))
    assert [f.number for f in frames] == list(range(30))
    np.testing.assert_allclose([f.time for f in frames], np.arange(30) / 25)
    np.testing.assert_allclose([f.image[40, 50].mean() for f in frames], 4 * np.arange(30), atol=3)
    assert not any(f.error for f in frames)
    parts = [f.part for f in frames]
    assert parts == sorted(parts) and parts[0] >= 0 and parts[-1] <= 1


def test_variable_frame_rate(tmp_path):
    times = [0, 10, 50, 400, 410, 1000, 1010, 1200, 1201, 3000]
    media.write_video(tmp_path / "v.mp4", numbered(10), times)
    found = [f.time for f in read_video(tmp_path / "v.mp4")]
    np.testing.assert_allclose(found, np.array(times) / 1000, atol=1e-4)
    chosen = [f.number for f in read_video(tmp_path / "v.mp4", fps=2)]
    assert chosen == [0, 5, 9]  # the first of every half second that has one


def test_fps_of_a_constant_rate(plain):
    assert [f.number for f in read_video(plain, fps=5)] == [0, 5, 10, 15, 20, 25]
    assert [f.number for f in read_video(plain, fps=100)] == list(range(30))


def test_start_skips_frames_but_not_the_choice_of_others(plain):
    whole = list(read_video(plain, fps=5))
    rest = list(read_video(plain, fps=5, start=11))
    assert [f.number for f in rest] == [15, 20, 25]
    np.testing.assert_array_equal(rest[0].image, whole[3].image)


@pytest.mark.parametrize("turn", TURNS)
def test_rotation_flags(tmp_path, turn):
    matrix, (row, column) = TURNS[turn]
    path = media.write_video(tmp_path / "t.mp4", numbered(2))
    turned(path, *matrix)
    image = next(read_video(path)).image
    assert image.shape == ((64, 48, 3) if "clockwise" in turn else (48, 64, 3))
    corners = [[image[y, x].mean() for x in (4, -4)] for y in (4, -4)]
    assert np.unravel_index(np.argmax(corners), (2, 2)) == (row, column)


def test_wide_pixels_become_square(tmp_path):
    import av

    with av.open(str(tmp_path / "w.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = 2
        container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(1)[0], format="rgb24")))
        container.mux(stream.encode())
    assert next(read_video(tmp_path / "w.mp4")).image.shape == (48, 128, 3)
    wide = next(read_video(tmp_path / "w.mp4", max_pixels=48 * 127))
    assert wide.image is None and wide.error == "128x48 is more than 6096 pixels"


@pytest.mark.parametrize(("name", "reason"), [("c.mp4", "frames are in it"), ("c.mkv", "seconds")])
def test_a_cut_video_is_read_as_far_as_it_goes(tmp_path, name, reason):
    noise = np.random.default_rng(0).integers(0, 255, (100, 48, 64, 3), np.uint8)
    path = media.write_video(tmp_path / name, list(noise), options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    *frames, last = read_video(path)
    assert 30 < len(frames) < 70
    assert all(f.image is not None for f in frames[:-3])
    assert last.image is None and "the file is cut" in last.error and reason in last.error


def test_frames_that_an_edit_list_leaves_out_are_not_missing(tmp_path):
    path = media.write_video(tmp_path / "e.mp4", numbered(100), keyframes=5)
    data = bytearray(path.read_bytes())

    def number(box, offset):
        start = data.index(box) + offset
        return start, int.from_bytes(data[start : start + 4], "big")

    # Of four seconds the last one is kept (ISO/IEC 14496-12, 8.2.2, 8.3.2, 8.6.6).
    for box, offset in ((b"mvhd", 20), (b"tkhd", 24), (b"elst", 12)):
        start, ticks = number(box, offset)
        assert ticks == 4000
        data[start : start + 4] = struct.pack(">I", 1000)
    _, scale = number(b"mdhd", 16)
    start, begin = number(b"elst", 16)
    data[start : start + 4] = struct.pack(">I", begin + 3 * scale)
    path.write_bytes(data)
    frames = list(read_video(path))
    assert not any(f.error for f in frames)
    shown = [f for f in frames if f.time >= 0]
    assert len(shown) == 25 and len(frames) < 100
    np.testing.assert_allclose(shown[0].image[40, 50], 4 * (75 % 40), atol=3)


def test_a_name_with_colons_is_a_file(plain, tmp_path, monkeypatch):
    (tmp_path / "2024-05-01T12:30:00.mp4").write_bytes(plain.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert len(list(read_video("2024-05-01T12:30:00.mp4"))) == 30


@pytest.mark.parametrize("kind", [MemoryError, ValueError, cv2.error])
def test_a_frame_that_cannot_be_converted_is_an_error(plain, monkeypatch, kind):
    upright = video._upright

    def fail(image, frame):
        if abs(int(image[40, 50, 0]) - 4 * 7) < 2:
            raise kind("no room")
        return upright(image, frame)

    monkeypatch.setattr(video, "_upright", fail)
    frames = list(read_video(plain))
    assert [f.number for f in frames if f.error] == [7] and len(frames) == 30
    assert frames[7].error == "the frame cannot be converted (no room)"


def test_a_corrupt_frame_leaves_its_tick_to_the_next(plain, monkeypatch):
    decoded = video._decoded

    class Corrupt:
        is_corrupt = True

    def damaged(*args):
        for one in decoded(*args):
            yield one._replace(frame=Corrupt()) if one.number == 10 else one

    monkeypatch.setattr(video, "_decoded", damaged)
    found = [(f.number, bool(f.error)) for f in read_video(plain, fps=2.5)]
    assert found == [(0, False), (10, True), (11, False), (20, False)]


def test_damage_in_the_middle_is_an_error_and_the_rest_is_read(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (60, 48, 64, 3), np.uint8)
    path = media.write_video(tmp_path / "d.mp4", list(noise), keyframes=5)
    data = bytearray(path.read_bytes())
    middle = data.index(b"mdat") + len(data) // 2
    data[middle : middle + 4000] = bytes(range(1, 251)) * 16
    path.write_bytes(data)
    frames = list(read_video(path))
    broken = [f.number for f in frames if f.error]
    assert broken and all("damaged" in frames[n].error for n in broken)
    assert [f.number for f in frames] == list(range(len(frames)))
    assert frames[0].image is not None and frames[-1].image is not None


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_damage_is_the_same_for_any_number_of_threads(tmp_path, codec):
    import av

    noise = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), np.uint8)
    path = media.write_video(tmp_path / "d.mp4", list(noise), codec=codec, keyframes=5)
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size, float(p.pts * p.time_base)) for p in container.demux() if p.size]
    whole = path.read_bytes()
    for places in ((20,), (37,), (39,), (10, 38, 39)):
        data = bytearray(whole)
        for position, size, _ in (packets[place] for place in places):
            data[position : position + size] = bytes(size)
        path.write_bytes(data)
        one, many = (
            [(f.number, f.time, f.error) for f in read_video(path, threads=threads)]
            for threads in (1, 8)
        )
        assert one == many
        assert [number for number, *_ in one] == list(range(40))
        assert [time for _, time, error in one if error] == [packets[n][2] for n in places]


def test_a_file_that_cannot_be_read_further_gives_the_frames_it_has_given(plain):
    import av

    class Damaged:
        duration = start_time = size = None

        def __init__(self, container):
            self._container = container

        def demux(self):
            for number, packet in enumerate(self._container.demux()):
                if number == 20:
                    raise av.error.InvalidDataError(1, "lost")
                yield packet

    with av.open(str(plain)) as container:
        *found, last = video._decoded(av, Damaged(container), container.streams.video[0])
    assert [one.number for one in found] == list(range(20))
    np.testing.assert_allclose([one.time for one in found], np.arange(20) / 25)
    assert (last.number, last.frame) == (20, "the file is damaged here (lost)")


def test_a_file_that_is_no_video(tmp_path):
    (tmp_path / "t.mp4").write_text("not a video at all\n" * 40)
    with pytest.raises(DecodeError, match="not a video that can be read"):
        list(read_video(tmp_path / "t.mp4"))
    with pytest.raises(FileNotFoundError):
        list(read_video(tmp_path / "none.mp4"))


def test_sound_alone(tmp_path):
    with pytest.raises(DecodeError, match="no video stream"):
        list(read_video(media.write_sound(tmp_path / "s.mp4")))


def test_cover_art_is_no_video(tmp_path):
    import av

    with av.open(str(tmp_path / "s.m4a"), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=44100)
        picture = container.add_stream("mjpeg")
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
        container.mux(picture.encode(av.VideoFrame.from_ndarray(numbered(1)[0], format="rgb24")))
        container.mux(picture.encode())
    with av.open(str(tmp_path / "s.m4a")) as container:
        assert container.streams.video
    with pytest.raises(DecodeError, match="no video stream"):
        list(read_video(tmp_path / "s.m4a"))


@pytest.mark.parametrize(
    ("name", "reason"), [("z.avi", "no frame that can be decoded"), ("z.mp4", "no video stream")]
)
def test_a_video_of_zero_frames(tmp_path, name, reason):
    with pytest.raises(DecodeError, match=reason):
        list(read_video(media.write_no_frames(tmp_path / name)))


def test_frames_that_are_too_large_are_rows_with_an_error(plain):
    frame = next(read_video(plain, max_pixels=1000))
    assert frame.image is None and frame.error == "64x48 is more than 1000 pixels"


def test_without_pyav_the_extra_is_named(plain, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "av":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r'pip install -e "\.\[video\]"'):
        list(read_video(plain))

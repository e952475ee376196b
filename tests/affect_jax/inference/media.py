"""Photos and videos of drawn faces, and a tiny model, for tests of prediction."""

import functools
import io
import pathlib
from fractions import Fraction

import cv2
import numpy as np
from PIL import Image

from affect_jax import models
from affect_jax.inference.faces import Faces, faces_of_boxes
from affect_jax.models.preprocessing import Preprocessing
from affect_jax.weights.model_dir import save_model
from data_pipelines.sources.synthetic import SyntheticFaces

CLASSES = ("calm", "glad", "cross")
SIDE = 128


def save_tiny_model(folder: pathlib.Path) -> pathlib.Path:
    arguments = {"width": 16, "depth": 1, "stacks": 1, "emotion_blocks": 1, "n_expression": 3}
    save_model(
        folder,
        "emofan",
        arguments,
        models.create("emofan", **arguments),
        preprocessing=Preprocessing(image_size=16, crop="landmarks", crop_scale=1.2),
        class_names=CLASSES,
        provenance={"trained_for": ["expression", "valence_arousal", "landmarks"]},
    )
    return folder


@functools.cache
def faces(count: int = 12, side: int = SIDE) -> tuple[np.ndarray, ...]:
    """Faces of different persons, uint8 [side, side, 3]."""
    source = SyntheticFaces(
        count, seed=7, split="test", frames_per_video=1, videos_per_person=1, image_size=side
    )
    return tuple(source[i]["image"] for i in range(count))


def encoded(image: np.ndarray | Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    picture.save(file, kind, **({"quality": 95} if kind == "JPEG" else {}) | options)
    return file.getvalue()


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@functools.cache
def photos() -> dict[str, bytes]:
    """Files of all kinds that a folder of photos may hold, by name."""
    face, *others = faces()
    large = cv2.resize(face, (8000, 6000), interpolation=cv2.INTER_NEAREST)
    grid = np.vstack([np.hstack(faces()[4 * row : 4 * row + 4]) for row in range(3)])
    nothing = np.full((96, 128, 3), 120, np.uint8)
    transparent = Image.fromarray(np.dstack([face, np.full(face.shape[:2], 255, np.uint8)]))
    frames = [Image.fromarray(image) for image in others[:3]]
    return {
        "alpha.png": encoded(transparent, "PNG"),
        "animated.gif": encoded(
            Image.fromarray(face), "GIF", save_all=True, append_images=frames, duration=40
        ),
        "border.png": encoded(np.ascontiguousarray(face[:, 44:]), "PNG"),
        "cmyk.jpg": encoded(Image.fromarray(face).convert("CMYK")),
        "cut.jpg": encoded(face)[:1500],
        "empty.jpg": b"",
        "grey.png": encoded(Image.fromarray(face).convert("L"), "PNG"),
        "large.jpg": encoded(large, quality=60),
        "no_face.png": encoded(nothing, "PNG"),
        "notes.txt": b"not a photo\n",
        "plain.png": encoded(face, "PNG"),
        "sub/small.png": encoded(cv2.resize(face, (30, 30), interpolation=cv2.INTER_AREA), "PNG"),
        "sub/twelve.png": encoded(grid, "PNG"),
        "turned_180.png": encoded(np.ascontiguousarray(face[::-1, ::-1]), "PNG"),
        "turned_90.png": encoded(np.rot90(face), "PNG"),
        "upside_down_exif.jpg": encoded(np.ascontiguousarray(face[::-1, ::-1]), exif=_exif(3)),
    }


def write_photos(folder: pathlib.Path) -> pathlib.Path:
    for name, content in photos().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_video(
    path: pathlib.Path,
    frames: list[np.ndarray],
    times: list[int] | None = None,
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    keyframes: int = 12,
) -> pathlib.Path:
    """Write frames uint8 [H, W, 3]; `times` in milliseconds, default: 25 frames a second."""
    import av

    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.gop_size = keyframes
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = times[number] if times else 40 * number
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path: pathlib.Path) -> pathlib.Path:
    """Write a video file with sound alone."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_no_frames(path: pathlib.Path) -> pathlib.Path:
    """Write the header of a video, and nothing else."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    return path


def find_bright(image: np.ndarray) -> Faces:
    """A detector for tests: the parts of an image that are not black, from left to right."""
    mask = (image.max(axis=-1) > 40).astype(np.uint8)
    count, _, boxes, _ = cv2.connectedComponentsWithStats(mask)
    found = sorted(boxes[1:count, :4].tolist())
    found = [(x, y, x + w, y + h) for x, y, w, h in found if w * h >= 25]
    return faces_of_boxes(np.array(found), np.linspace(0.9, 0.8, len(found)))

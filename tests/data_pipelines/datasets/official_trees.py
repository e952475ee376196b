"""Tiny copies of the official layouts: file names, headers, encodings and numbering as released."""

import io
import json
from pathlib import Path

import cv2
import numpy as np
import scipy.io
from PIL import Image

POINTS = np.stack([np.linspace(5, 40, 68), np.linspace(8, 44, 68)], 1)


def pixels(seed: int, side: int = 48, grey: bool = False) -> np.ndarray:
    """A smooth random picture, another one for each seed."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    picture = cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)
    return picture[..., 0] if grey else picture


def encoded(seed: int, kind: str = "jpeg", **options) -> bytes:
    """A picture as the bytes of a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed, **options)).save(buffer, kind)
    return buffer.getvalue()


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    else:
        path.write_bytes(content)
    return path


AFFECTNET_HEADER = (
    "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,"
    "expression,valence,arousal"
)


def affectnet_row(name: str, expression, valence, arousal, landmarks: str | None = None) -> str:
    text = ";".join(f"{v:.2f}" for v in POINTS.ravel()) if landmarks is None else landmarks
    return f"{name},4,6,40,41,{text},{expression},{valence},{arousal}"


def affectnet_2017(root: Path) -> Path:
    """Eight classes, the three labels that are none of them, a missing file, a damaged one."""
    rows = [affectnet_row(f"{k}/a{k}.jpg", k, 0.1 * k, -0.1 * k) for k in range(8)]
    rows += [affectnet_row(f"{k}/a{k}.jpg", k, -2, -2) for k in (8, 9, 10)]
    rows.append(affectnet_row("1/b.png", 1, 0.123456789, -2, landmarks=""))
    rows.append(affectnet_row("1/gone.jpg", 1, 0.5, 0.5))
    rows.append(affectnet_row("1/cut.jpg", 1, 0.5, 0.5))
    rows.append(affectnet_row("1/far.jpg", 1, 1.5, 0.5))
    rows.append(affectnet_row("1/c.tif", 2, 0, 0))
    lists = root / "Manually_Annotated_file_lists"
    images = root / "Manually_Annotated" / "Manually_Annotated_Images"
    for k in range(11):
        write(images / f"{k}/a{k}.jpg", encoded(k))
    write(images / "1/b.png", encoded(20, "png"))
    write(images / "1/cut.jpg", encoded(21)[:-100])
    write(images / "1/far.jpg", encoded(22))
    write(images / "1/c.tif", encoded(23, "tiff"))
    write(lists / "training.csv", "\n".join([AFFECTNET_HEADER, *rows]) + "\n")
    # Some copies of the validation list have no header.
    write(lists / "validation.csv", affectnet_row("3/a3.jpg", 3, 0.2, 0.7) + "\n")
    return root


def affectnet_2021(root: Path) -> Path:
    """Numbered pictures with four .npy files; the class is stored as text, as in the release."""
    for split, numbers in (("train_set", (0, 1, 2, 10)), ("val_set", (7,))):
        for n in numbers:
            write(root / split / "images" / f"{n}.jpg", encoded(n, side=32))
            notes = root / split / "annotations"
            notes.mkdir(parents=True, exist_ok=True)
            np.save(notes / f"{n}_exp.npy", np.array(str(n % 8)))
            np.save(notes / f"{n}_val.npy", np.array("-2" if n == 2 else "0.25"))
            np.save(notes / f"{n}_aro.npy", np.array("-2" if n == 2 else "-0.5"))
            np.save(notes / f"{n}_lnd.npy", POINTS.ravel())
    (root / "train_set" / "annotations" / "10_val.npy").unlink()
    return root


def afew_va(root: Path, nested: bool = False) -> Path:
    """Three clips of two actors; frames from 00000; whole numbers from -10 to 10."""
    for clip, actor in (("001", "Ann Actor"), ("002", "ann actor "), ("051", "")):
        folder = root / ("02" if clip > "050" else "01") / clip if nested else root / clip
        frames = {}
        for f in range(2):
            write(folder / f"{f:05d}.png", encoded(int(clip) + f, "png"))
            frames[f"{f:05d}"] = {
                "landmarks": POINTS.tolist(),
                "valence": float(-10 + 5 * f),
                "arousal": 3.0,
            }
        frames["00002"] = {"landmarks": POINTS.tolist(), "valence": 11.0, "arousal": 0.0}
        frames["00003"] = {"landmarks": POINTS.tolist(), "valence": 1.0, "arousal": 0.0}
        notes = {"actor": actor, "video_id": clip, "frames": frames}
        write(folder / f"{clip}.json", json.dumps(notes))
    return root


def sewa(root: Path) -> Path:
    """A recording as video with a frame column, and one as stills with two annotators."""
    first = root / "SEW1101"
    first.mkdir(parents=True)
    video = cv2.VideoWriter(
        str(first / "SEW1101.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48)
    )
    for k in range(12):
        video.write(np.ascontiguousarray(pixels(k, 64)[:48, :, ::-1]))
    video.release()
    write(first / "metadata.ini", "[metadata]\nSession Number = 11\nSubject Number = 1\n")
    rows = [f"{k},{0.05 * k}" for k in range(1, 12)]
    write(first / "SEW1101_valence.csv", "frame,gold\n" + "\n".join(rows))
    write(first / "SEW1101_arousal.csv", "frame,gold\n" + "\n".join(rows))
    second = root / "SEW1102"
    for k in range(1, 7):
        write(second / "frames" / f"{k:06d}.jpg", encoded(30 + k))
    write(second / "metadata.ini", "[metadata]\nSession Number = 11\nSubject Number = 2\n")
    write(second / "SEW1102_valence.csv", "\n".join(f"{0.1 * k};{0.3 * k}" for k in range(6)))
    write(
        second / "SEW1102_arousal.csv", "\n".join(f"{-0.1};{2.6 if k else -0.3}" for k in range(6))
    )
    return root


EXPR_HEADER = "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other"


def aff_wild2(root: Path) -> Path:
    """Two videos, one with a second person; frames from 1; -1, -5 and a frame without a face."""
    expr = root / "annotations" / "EXPR_Classification_Challenge"
    va = root / "annotations" / "VA_Estimation_Challenge"
    write(expr / "Train_Set/1-30-1280x720.txt", f"{EXPR_HEADER}\n0\n-1\n7\n3\n")
    write(expr / "Train_Set/1-30-1280x720_right.txt", f"{EXPR_HEADER}\n4\n")
    write(expr / "Validation_Set/video2.txt", f"{EXPR_HEADER}\n6\n2\n")
    write(va / "Train_Set/video2.txt", "valence,arousal\n0.5,-0.25\n-5,-5\n")
    write(va / "Validation_Set/1-30-1280x720.txt", "valence,arousal\n-1,1\n0.1,0.2\n")
    for video, frames in (("1-30-1280x720", (1, 2, 3)), ("1-30-1280x720_right", (1,))):
        for f in frames:
            write(root / f"cropped_aligned/{video}/{f:05d}.jpg", encoded(f))
    for f in (1, 2):
        write(root / f"cropped_aligned/video2/{f:05d}.jpg", encoded(40 + f))
    return root


def raf_db(root: Path) -> Path:
    """All seven labels, attributes, a line that is damaged and a picture that is missing."""
    basic = root / "basic"
    lines = [f"train_{k:05d}.jpg {k}" for k in range(1, 8)]
    lines += ["train_00008.jpg 3", "train_00009.jpg", "test_0001.jpg 5", "test_0002.jpg 1"]
    write(basic / "EmoLabel/list_patition_label.txt", "\n".join(lines) + "\n")
    stems = [f"train_{k:05d}" for k in range(1, 8)] + ["test_0001", "test_0002"]
    marks = "".join(f"{10.5 + k}\t{20.25 + k}\n" for k in range(5))
    for k, stem in enumerate(stems):
        write(basic / f"Image/aligned/{stem}_aligned.jpg", encoded(k))
        write(basic / f"Image/original/{stem}.jpg", encoded(k, side=60))
        notes = f"{marks}{k % 3}\n{(k + 1) % 3}\n{k % 5}\n"
        write(basic / f"Annotation/manual/{stem}_manu_attri.txt", notes)
        write(basic / f"Annotation/boundingbox/{stem}_boundingbox.txt", "3 4 50 52 \n")
    (basic / "Annotation/manual/test_0002_manu_attri.txt").unlink()
    return root


def fer2013(root: Path, name: str = "fer2013.csv") -> Path:
    """All seven classes in training, two in the other sets, and a row that lacks pixels."""
    kaggle = name.startswith("icml")
    rows = ["emotion, Usage, pixels" if kaggle else "emotion,pixels,Usage"]
    usages = ["Training"] * 7 + ["PublicTest", "PrivateTest", "Training", "Training"]
    for k, usage in enumerate(usages):
        text = " ".join(str(v) for v in pixels(k, grey=True).ravel()[: 2304 if k < 9 else 2300])
        rows.append(f"{k % 7},{usage},{text}" if kaggle else f"{k % 7},{text},{usage}")
    rows[-1] = rows[2].replace("1,", "9,", 1)
    write(root / name, "\n".join(rows) + "\n")
    return root


FERPLUS_HEADER = (
    "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
)


def ferplus(root: Path) -> Path:
    """Votes beside the rows of fer2013.csv."""
    fer2013(root)
    votes = [
        "Training,fer0000000.png,4,0,0,1,3,2,0,0,0,0",  # no majority
        "Training,fer0000001.png,6,0,1,1,0,0,0,0,2,0",  # majority neutral
        "Training,fer0000002.png,0,0,0,4,4,0,0,2,0,0",  # a tie
        "Training,fer0000003.png,0,0,0,1,1,0,0,0,8,0",  # unknown
        "Training,,0,0,0,0,0,0,0,0,0,10",  # taken out
        "Training,fer0000005.png,0,0,0,0,0,0,0,9,1,0",  # contempt
        "Training,fer0000006.png,0,0,0,5,0,0,0,0,0,5",  # half of them no face
        "PublicTest,fer0000007.png,0,10,0,0,0,0,0,0,0,0",
        "PrivateTest,fer0000008.png,0,0,0,0,0,0,10,0,0,0",
        "Training,fer0000009.png,10,0,0,0,0,0,0,0,0,0",
        "Training,fer0000010.png,10,0,0,0,0,0,0,0,0,0",
    ]
    write(root / "fer2013new.csv", "\n".join([FERPLUS_HEADER, *votes]) + "\n")
    return root


def ck_plus(root: Path) -> Path:
    """One sequence per label (grey), an unlabelled one, and one that is too short."""
    sequences = {f"S{k:03d}/001": k for k in range(1, 8)} | {"S001/002": None, "S009/001": 5}
    for name, label in sequences.items():
        stem = name.replace("/", "_")
        last = 2 if name.startswith("S009") else 6
        for f in range(1, last + 1):
            path = f"{name}/{stem}_{f:08d}"
            seed = 100 * int(name[1:4]) + f
            write(root / f"cohn-kanade-images/{path}.png", encoded(seed, "png", grey=True))
            text = "\n".join(f"   {x:.7e}   {y:.7e}" for x, y in POINTS + f)
            write(root / f"Landmarks/{path}_landmarks.txt", text + "\n")
        folder = root / f"Emotion/{name}"
        folder.mkdir(parents=True, exist_ok=True)
        if label:
            write(folder / f"{stem}_{last:08d}_emotion.txt", f"   {label:.7e}\n")
    write(root / "cohn-kanade-images/S001/001/.DS_Store", "")
    return root


def jaffe(root: Path) -> Path:
    """One grey TIFF per expression code and person, and a file that does not belong."""
    for p, person in enumerate(("KA", "YM")):
        for k, code in enumerate(("NE", "HA", "SA", "SU", "AN", "DI", "FE")):
            name = f"{person}.{code}{1 + k % 3}.{39 + k}.tiff"
            write(root / "jaffe" / name, encoded(10 * p + k, "tiff", grey=True))
    write(root / "jaffe" / "KA.XX1.99.tiff", encoded(99, "tiff", grey=True))
    write(root / "jaffe" / "README", "text")
    return root


SFEW_FOLDERS = ("Angry", "Disgust", "Fear", "Happy", "Neutral", "Sad", "Surprise")


def sfew(root: Path) -> Path:
    """Aligned faces and whole stills of two films."""
    for k, name in enumerate(SFEW_FOLDERS):
        still = f"Airheads_00051{k}240_00000005.png"
        train = root / "Train"
        write(train / "Train_Aligned_Faces" / name / still, encoded(k, "png"))
        write(train / name / still, encoded(k, "png", side=60))
        val = root / "Val" / "Val_Aligned_Faces_new" / "Val_Aligned_Faces"
        write(val / name / "Bad_Santa_2_000123_00000010.png", encoded(50 + k, "png"))
        write(root / "Val" / name / "Bad_Santa_2_000123_00000010.png", encoded(50 + k, "png"))
    return root


FERG_CLASSES = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")


def ferg_db(root: Path) -> Path:
    """Two characters, two pictures per expression, numbered without zeros in front."""
    for c, character in enumerate(("aia", "ray")):
        for k, name in enumerate(FERG_CLASSES):
            for n in (1, 10):
                folder = root / "FERG_DB_256" / character / f"{character}_{name}"
                path = folder / f"{character}_{name}_{n}.png"
                write(path, encoded(1000 * c + 10 * k + n, "png"))
    return root


def fg_emotions(root: Path) -> Path:
    """A coarse folder between split and fine class, and one without."""
    write(root / "train/fear/anxiety/a.jpg", encoded(1))
    write(root / "train/anger/anger/b.jpg", encoded(2))
    write(root / "train/love/lust/c.jpg", encoded(3))
    write(root / "train/love/boredom/d.jpg", encoded(4))
    write(root / "test/Relief/e.jpg", encoded(5))
    return root


def pts(points: np.ndarray) -> str:
    body = "\n".join(f"{x:.6f} {y:.6f}" for x, y in points)
    return f"version: 1\nn_points:  {len(points)}\n{{\n{body}\n}}\n"


def landmarks_300w(root: Path) -> Path:
    """The .pts sets; one file has too few points."""
    places = ("afw", "helen/trainset", "lfpw/trainset", "helen/testset", "lfpw/testset", "ibug")
    for k, place in enumerate((*places, "01_Indoor")):
        write(root / place / "image_1.jpg", encoded(k))
        write(root / place / "image_1.pts", pts(POINTS + k))
    write(root / "afw/image_2.png", encoded(20, "png"))
    write(root / "afw/image_2.pts", pts(POINTS[:51]))
    return root


def landmarks_300w_lp(root: Path) -> Path:
    """Two views of one photo, a mirrored folder, AFLW2000."""
    lp = root / "300W_LP"
    for view in (0, 1):
        path = write(lp / f"AFW/AFW_134212_1_{view}.jpg", encoded(view))
        scipy.io.savemat(path.with_suffix(".mat"), {"pt2d": POINTS.T + view})
    write(lp / "AFW_Flip/AFW_134212_1_0.jpg", encoded(3))
    path = write(lp / "HELEN/HELEN_1_0.jpg", encoded(4))
    scipy.io.savemat(path.with_suffix(".mat"), {"pt2d": POINTS.T})
    better = lp / "landmarks/HELEN/HELEN_1_0_pts.mat"
    better.parent.mkdir(parents=True)
    scipy.io.savemat(better, {"pts_2d": POINTS + 7, "pts_3d": POINTS})
    path = write(root / "AFLW2000/image00002.jpg", encoded(5))
    scipy.io.savemat(path.with_suffix(".mat"), {"pt3d_68": np.vstack([POINTS.T, np.zeros(68)])})
    return root

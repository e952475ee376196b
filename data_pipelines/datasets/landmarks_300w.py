"""Faces with 68 landmarks in iBUG order: 300W (.pts) and 300W-LP with AFLW2000-3D (.mat).

Configs:

* `300w_lp`: `300W_LP/{AFW,HELEN,IBUG,LFPW}` with a .jpg and a .mat for each picture (the mirrored
  `*_Flip` folders are left out, since training mirrors by itself), points from
  `landmarks/AFW/NAME_pts.mat` (`pts_2d`) where there, else from `pt2d` of the .mat; test split
  `AFLW2000` (`pt3d_68`). Source: http://www.cbsr.ia.ac.cn/users/xiangyuzhu/projects/3DDFA/main.htm
* `300w`: `afw`, `helen/trainset`, `lfpw/trainset` for training; `helen/testset`, `lfpw/testset` and
  `ibug` for testing (the "full" set of 689); `01_Indoor`, `02_Outdoor` as split `private`. Source:
  https://ibug.doc.ic.ac.uk/resources/300-W/

Both formats count pixels from 1, as MATLAB does; here the first pixel is 0, so 1 is taken off. The
group is the photo: 300W-LP has several rendered views of one.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.datasets.base import FaceBuilder
from data_pipelines.datasets.card import Card, Config, Published, Record, Reject
from data_pipelines.datasets.layout import (
    by_name,
    existing,
    find_root,
    first_existing,
    pictures,
    subfolders,
)
from data_pipelines.schema import NUM_LANDMARKS

_LP_SETS = ("AFW", "HELEN", "IBUG", "LFPW")
_AFLW = ("AFLW2000", "AFLW2000-3D", "AFLW2000-3D/AFLW2000")
# Each folder, with other places of the same one.
_300W = {
    "train": (("afw",), ("helen/trainset",), ("lfpw/trainset",)),
    "test": (("helen/testset",), ("lfpw/testset",), ("ibug",)),
    "private": (("01_Indoor", "300W/01_Indoor"), ("02_Outdoor", "300W/02_Outdoor")),
}
_VIEW = re.compile(r"_\d+$")


class Landmarks300w(FaceBuilder):
    """Builder of 300W and 300W-LP."""

    name = "landmarks_300w"
    BUILDER_CONFIGS = [  # noqa: RUF012 - the name is TFDS's
        Config(name="300w_lp", description="300W-LP and AFLW2000-3D, .mat"),
        Config(name="300w", description="300W, .pts"),
    ]
    card = Card(
        title="300W / 300W-LP landmarks",
        class_names=(),
        splits={
            "train": "300W-LP without mirrored copies, or the 3,148 of 300W",
            "test": "AFLW2000-3D, or the 689 of 300W (common and challenging)",
            "private": "300W indoor and outdoor (config 300w)",
        },
        expected="""
config 300w_lp:                               config 300w:
300W_LP/AFW/AFW_134212_1_0.jpg + .mat         afw/*.jpg + .pts
        HELEN/ IBUG/ LFPW/                    helen/trainset/ helen/testset/
        landmarks/AFW/..._pts.mat (optional)  lfpw/trainset/ lfpw/testset/
AFLW2000/image00002.jpg + .mat (optional)     ibug/  01_Indoor/ 02_Outdoor/ (optional)
""",
        apply="https://ibug.doc.ic.ac.uk/resources/300-W/ and "
        "http://www.cbsr.ia.ac.cn/users/xiangyuzhu/projects/3DDFA/main.htm",
        group="photo",
        fields=("landmarks",),
        roles={"train": "train", "test": "test"},
    )
    published: Mapping[str, Published] = {
        "300w_lp": Published(examples={"train": 61225, "test": 2000}),
        "300w": Published(examples={"train": 3148, "test": 689, "private": 600}),
    }

    def locate(self, manual_dir: Path) -> Mapping[str, Any]:
        if self.builder_config.name == "300w":
            return self._locate_300w(manual_dir)
        root = find_root(
            manual_dir, lambda p: any(_pairs(existing(p, s), ".mat") for s in _LP_SETS)
        )
        if root is None:
            raise self.wrong_folder(manual_dir, "there is no folder such as AFW with .jpg and .mat")
        found = {"train": [p for p in (existing(root, s) for s in _LP_SETS) if p]}
        for place in subfolders(root):
            if place.name.lower().endswith("_flip"):
                reason = "mirrored copies: training mirrors by itself"
                self.left.leave_out(place.name, reason, len(pictures(place)))
        test_root = find_root(manual_dir, lambda p: first_existing(p, _AFLW) is not None)
        if test_root is not None:
            found["test"] = [first_existing(test_root, reversed(_AFLW))]
        self.places = [p for folders in found.values() for p in folders]
        return found

    def _locate_300w(self, manual_dir: Path) -> Mapping[str, Any]:
        places = [p for sets in _300W.values() for names in sets for p in names]
        root = find_root(manual_dir, lambda p: any(_pairs(existing(p, s), ".pts") for s in places))
        if root is None:
            raise self.wrong_folder(manual_dir, "there is no folder such as afw with .pts files")
        found = {
            split: [p for names in sets if (p := first_existing(root, names)) is not None]
            for split, sets in _300W.items()
        }
        for names in _300W["private"]:
            there = [p for p in (existing(root, n) for n in names) if p is not None]
            for other in there[1:]:
                reason = f"the same set as {there[0].relative_to(root)}, which is read"
                self.left.leave_out(str(other.relative_to(root)), reason, len(pictures(other)))
        self.places = [p for folders in found.values() for p in folders]
        return {split: folders for split, folders in found.items() if folders}

    def count(self, found: list[Path]) -> int:
        suffix = ".mat" if self.builder_config.name == "300w_lp" else ".pts"
        return sum(len(pictures(f)) + len(_without_picture(f, suffix)) for f in found)

    def records(self, found: list[Path]) -> Iterator[Record]:
        for folder in found:
            for path in pictures(folder):
                lp = self.builder_config.name == "300w_lp"
                view = folder.name in _LP_SETS
                record = Record(
                    f"{folder.parent.name}/{folder.name}/{path.name}",
                    path,
                    # Without the place of the user's copy: splits are cut by these names.
                    group=_VIEW.sub("", path.stem) if view else f"{folder.name}/{path.stem}",
                )
                try:
                    record.landmarks = (_mat_points if lp else _pts_points)(path) - 1.0
                except Reject as e:
                    record.reject = str(e)
                yield record
            suffix = ".mat" if self.builder_config.name == "300w_lp" else ".pts"
            for path in _without_picture(folder, suffix):
                name = f"{folder.parent.name}/{folder.name}/{path.name}"
                yield Record(name, reject="there is no picture for these points")


def _without_picture(folder: Path, suffix: str) -> list[Path]:
    stems = {p.stem for p in pictures(folder)}
    points = (p for n, p in sorted(by_name(folder).items()) if n.endswith(suffix))
    return [p for p in points if p.stem not in stems]


def _pairs(folder: Path | None, suffix: str) -> bool:
    return folder is not None and any(n.endswith(suffix) for n in by_name(folder))


def _pts_points(picture: Path) -> np.ndarray:
    """Reads `version: 1`, `n_points: 68`, `{`, 68 lines of x y, `}`."""
    path = existing(picture.parent, f"{picture.stem}.pts")
    if path is None:
        raise Reject(f"{picture.stem}.pts is missing")
    text = path.read_text()
    try:
        inside = text[text.index("{") + 1 : text.index("}")]
        points = np.array(inside.split(), np.float64)
    except ValueError:
        raise Reject(f"{path.name} is not a .pts file of points in braces") from None
    return _checked(points.reshape(-1, 2) if points.size % 2 == 0 else points, path)


def _mat_points(picture: Path) -> np.ndarray:
    better = picture.parent.parent / "landmarks" / picture.parent.name / f"{picture.stem}_pts.mat"
    path = better if better.is_file() else existing(picture.parent, f"{picture.stem}.mat")
    if path is None:
        raise Reject(f"{picture.stem}.mat is missing")
    # SciPy comes with JAX, but only this reader needs it.
    import scipy.io

    try:
        values = scipy.io.loadmat(str(path))
    except Exception as e:
        raise Reject(f"{path.name} cannot be read ({e})") from e
    for key in ("pts_2d", "pt3d_68", "pt2d"):
        if key in values:
            points = np.asarray(values[key], np.float64)
            points = points if points.shape == (NUM_LANDMARKS, 2) else points[:2].T
            return _checked(points, path)
    raise Reject(f"{path.name} holds none of pts_2d, pt3d_68, pt2d")


def _checked(points: np.ndarray, path: Path) -> np.ndarray:
    if points.shape != (NUM_LANDMARKS, 2):
        raise Reject(f"{path.name} holds an array {points.shape}, not {NUM_LANDMARKS} points")
    if not np.isfinite(points).all():
        raise Reject(f"{path.name} holds values that are not finite")
    return points

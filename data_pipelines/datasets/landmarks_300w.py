"""Faces with 68 landmarks: 300W (.pts), and 300W-LP with AFLW2000-3D (.mat).

Configs:

* `300w_lp`: `300W_LP/{AFW,HELEN,IBUG,LFPW}` with a .jpg and a .mat for each image (the mirrored
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
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.datasets import layout
from data_pipelines.datasets.base import FaceBuilder
from data_pipelines.datasets.card import Card, Published, Record, Reject, configs
from data_pipelines.schema import NUM_LANDMARKS

_LP_SETS = ("AFW", "HELEN", "IBUG", "LFPW")
_AFLW = ("AFLW2000-3D/AFLW2000", "AFLW2000-3D", "AFLW2000")
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
    BUILDER_CONFIGS = configs({"300w_lp": "300W-LP and AFLW2000-3D, .mat", "300w": "300W, .pts"})
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

    @property
    def suffix(self) -> str:
        """Ending of the files with the points."""
        return ".mat" if self.builder_config.name == "300w_lp" else ".pts"

    def locate(self) -> Mapping[str, Any]:
        found = self._locate_300w() if self.suffix == ".pts" else self._locate_300w_lp()
        self.places = [p for folders in found.values() for p in folders]
        return found

    def _root(self, places: Iterable[str], reason: str) -> Path:
        """Return the folder in which one of `places` holds points."""

        def fits(folder: Path) -> bool:
            found = (layout.existing(folder, place) for place in places)
            return any(p is not None and layout.with_suffix(p, self.suffix) for p in found)

        return self.need(layout.find_root(self.manual_dir, fits), reason)

    def _locate_300w_lp(self) -> Mapping[str, list[Path]]:
        root = self._root(_LP_SETS, "there is no folder such as AFW with .jpg and .mat")
        found = {"train": [p for p in (layout.existing(root, s) for s in _LP_SETS) if p]}
        for place in layout.subfolders(root):
            if place.name.lower().endswith("_flip"):
                reason = "mirrored copies: training mirrors by itself"
                self.left.leave_out(place.name, reason, len(layout.image_files(place)))
        test = layout.find(self.manual_dir, _AFLW)
        return found | ({"test": [test]} if test else {})

    def _locate_300w(self) -> Mapping[str, list[Path]]:
        places = [p for sets in _300W.values() for names in sets for p in names]
        root = self._root(places, "there is no folder such as afw with .pts files")
        found = {
            split: [p for names in sets if (p := layout.first_existing(root, names)) is not None]
            for split, sets in _300W.items()
        }
        for names in _300W["private"]:
            there = [p for p in (layout.existing(root, n) for n in names) if p is not None]
            for other in there[1:]:
                reason = f"the same set as {there[0].relative_to(root)}, which is read"
                self.left.leave_out(
                    str(other.relative_to(root)), reason, len(layout.image_files(other))
                )
        return {split: folders for split, folders in found.items() if folders}

    def count(self, found: list[Path]) -> int:
        return sum(len(layout.image_files(f)) + len(self._without_image(f)) for f in found)

    def records(self, found: list[Path]) -> Iterator[Record]:
        read_points = _pts_points if self.suffix == ".pts" else _mat_points
        for folder in found:
            place = f"{folder.parent.name}/{folder.name}"
            for path in layout.image_files(folder):
                # Without the place of the user's copy: splits are cut by these names.
                photo = f"{folder.name}/{path.stem}"
                group = _VIEW.sub("", path.stem) if folder.name in _LP_SETS else photo
                record = Record(f"{place}/{path.name}", path, group=group)
                with record.reading():
                    record.landmarks = read_points(path) - 1.0
                yield record
            for path in self._without_image(folder):
                reason = "there is no image for these points"
                yield Record(f"{place}/{path.name}", reject=reason)

    def _without_image(self, folder: Path) -> list[Path]:
        stems = {p.stem for p in layout.image_files(folder)}
        return [p for p in layout.with_suffix(folder, self.suffix) if p.stem not in stems]


def _pts_points(image: Path) -> np.ndarray:
    """Read `version: 1`, `n_points: 68`, `{`, 68 lines of x y, `}`."""
    path = layout.existing(image.parent, f"{image.stem}.pts")
    if path is None:
        raise Reject(f"{image.stem}.pts is missing")
    text = path.read_text()
    try:
        inside = text[text.index("{") + 1 : text.index("}")]
        points = np.array(inside.split(), np.float64)
    except ValueError:
        raise Reject(f"{path.name} is not a .pts file of points in braces") from None
    return _checked(points.reshape(-1, 2) if points.size % 2 == 0 else points, path)


def _mat_points(image: Path) -> np.ndarray:
    better = image.parent.parent / "landmarks" / image.parent.name / f"{image.stem}_pts.mat"
    path = better if better.is_file() else layout.existing(image.parent, f"{image.stem}.mat")
    if path is None:
        raise Reject(f"{image.stem}.mat is missing")
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

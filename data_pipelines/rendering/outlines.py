"""All curves of a frame in pixels: a head at rest, changed and projected.

An image needs some 900 points, which are computed together for speed: one array of points in space,
one projection, one product that gives smooth curves through the projected points, one rounding.
Names lead to the rows of a part.
"""

import dataclasses
import functools

import numpy as np

from data_pipelines.rendering import canvas, geometry
from data_pipelines.rendering.expressions import Muscles
from data_pipelines.rendering.geometry import Camera, Places, Rows, spline
from data_pipelines.rendering.identity import Person

BROAD = ("long", "long_fringe")
_SIDES = np.array([[[-1.0, 1.0, 1.0]], [[1.0, 1.0, 1.0]]])
_ROUND = np.linspace(0.0, 2.0 * np.pi, 19)[:-1]
_SKULL_Y, _SKULL_Z, _SKULL_RADII = -26.0, -86.0, np.array([75.0, 84.0, 96.0])
_BALL = np.concatenate(
    [
        np.stack(
            [np.sin(_ROUND) * np.cos(b), np.full(18, np.sin(b)), np.cos(_ROUND) * np.cos(b)], 1
        )
        for b in (-1.5, -1.1, -0.75, -0.4, -0.1, 0.35)
    ]
)
_SKULL = _BALL * _SKULL_RADII
_POWER = np.stack([np.cos(_ROUND), np.sin(_ROUND)])
# fmt: off
# Combed lines from the crown to the forehead and the temples.
_COMB = np.array(
    [[(np.sin(a) * np.cos(e), -np.sin(e), np.cos(a) * np.cos(e))
      for e in (1.4, 1.05, 0.75, 0.5, 0.2)] for a in np.linspace(-1.75, 1.75, 18)]
) * (_SKULL_RADII + np.array([1.0, 0.0, 2.0]))
_HAIRLINE = np.array(
    [(-69, 6, -76), (-68.5, -18, -68), (-64, -40, -54), (-49, -58, -37), (-25, -67, -23),
     (0, -69, -18), (25, -67, -23), (49, -58, -37), (64, -40, -54), (68.5, -18, -68), (69, 6, -76)],
    float,
)
_EAR = np.array(
    [(72, 16, -76), (73, -8, -84), (75, -17, -90), (80, -18, -95), (83, -9, -98),
     (82, 6, -97), (78, 18, -92), (77, 27, -86), (73, 27, -80)],
    float,
)
_INNER_EAR = np.array([(75, -8, -86), (79, -10, -93), (79, 4, -93), (75, 12, -86)], float)
_CURTAIN = np.array(  # long hair along the face, from the parting down and back up
    [(8, -74, -28), (34, -66, -30), (56, -46, -38), (65, -10, -52), (67, 40, -58), (66, 90, -58),
     (70, 150, -64), (92, 152, -84), (94, 90, -92), (92, 30, -96), (88, -40, -96), (66, -92, -90),
     (36, -112, -78), (6, -118, -70)],
    float,
)
_LOCKS = np.array(
    [[(12 + 6 * k, -82 - 4 * k, -36 - 8 * k), (48 + 6 * k, -58 - 4 * k, -44 - 8 * k),
      (66 + 4 * k, -4, -56 - 6 * k), (69 + 4 * k, 60, -60 - 6 * k), (70 + 5 * k, 140, -66)]
     for k in (0.3, 1.4, 2.6, 3.6)]
)
_FRINGE = np.array(
    [(-62, -30, -38), (-38, -36, -14), (-12, -38, -8), (14, -39, -8), (38, -35, -14),
     (62, -29, -38)],
    float,
)
_BODY = np.array(
    [(-56, 168, -64), (-150, 200, -70), (-150, 330, -70), (150, 330, -70), (150, 200, -70),
     (56, 168, -64), (28, 186, -30), (0, 194, -22), (-28, 186, -30)],
    float,
)
# fmt: on
_ACROSS = np.array([-34.0, -17.0, 0.0, 17.0, 34.0])
_FOREHEAD = np.array(
    [
        np.stack([x, y, geometry.surface(x, y) + 1.0], axis=1)
        for x, y in (
            (_ACROSS * (1.0 - 0.08 * row), height + np.array([1.0, -1.5, 0.5, -1.5, 1.0]))
            for row, height in enumerate((-40.0, -48.0, -55.5))
        )
    ]
)
_BUNNY = np.array(
    [[(-10.0, y + 5.0, 4.0), (0.0, y, 13.0), (10.0, y + 5.0, 4.0)] for y in (1.0, 7.5, 14.0)]
)
_BONES = np.array(
    [(s * x, y, z) for s in (-1, 1) for x, y, z in ((57, 24, -26), (52, -30, -20), (50, 2, -19))],
    float,
)
_FROWN_DROP = np.array([4.0, 1.0, 4.0, 1.0])
# From the outer corner over the upper lid to the inner corner and back.
_RINGS = ([36, 37, 38, 39, 40, 41], [45, 44, 43, 42, 47, 46])
LIDS = 13  # points of an upper lid


def _folds_by_landmarks() -> tuple[np.ndarray, np.ndarray]:
    """Return weights [68, n] and offsets [3, n] of smile lines and crow's feet."""
    one, smile, feet = np.eye(68), [], []
    for wing, corner, outer, sign in ((31, 48, 36, -1.0), (35, 54, 45, 1.0)):
        start, end = np.array([sign * 3.0, -3.0, -2.0]), np.array([sign * 6.5, 1.0, -6.0])
        bulge = 0.5 * (start + end) + (sign * 4.5, -3.0, 1.0)
        middle = 0.5 * (one[wing] + one[corner])
        smile += [(one[wing], start), (middle, bulge), (one[corner], end)]
        for k in (-1.6, 0.2, 2.0):
            feet += [
                (one[outer], (sign * 4.0, k, -3.0)),
                (one[outer], (sign * 12.0, 3.5 * k, -9.0)),
            ]
    weights, offsets = zip(*smile, *feet, strict=True)
    return np.array(weights).T.copy(), np.array(offsets).T.copy()


_FOLD_WEIGHTS, _FOLD_OFFSETS = _folds_by_landmarks()
# Points in space that curves are drawn through: in this order they are the first ones of a head.
_CONTROLS = {
    "hairline": _HAIRLINE,
    "landmarks": np.zeros((68, 3)),
    "folds": np.zeros((18, 3)),
    "forehead": _FOREHEAD,
}
# Lengths in the plane of the face, to the right or down, and one down in the image.
_LENGTHS = (
    *("right", "down", "lid_left", "lid_right", "bag_left", "bag_right", "brow"),
    *("pit_left", "pit_right", "dimple_left", "dimple_right", "picture_down"),
)


def _curves() -> list[dict[str, np.ndarray]]:
    """Return the weights [..., c] of control points and `_LENGTHS` in the curves.

    Each dict is a region, whose curves depend on neighbouring control points. Names that begin with
    soft_ are for an image of half the size.
    """
    kinds = {**_CONTROLS, **{name: np.zeros((1, 3)) for name in _LENGTHS}}
    of = Rows(geometry.places(kinds), np.eye(sum(part.size // 3 for part in kinds.values())))
    points, fold, hairline = of["landmarks"], of["folds"], of["hairline"]
    right, down = of["right"], of["down"]

    def curve(indices: list[int], per_segment: int = 4) -> np.ndarray:
        return spline(len(indices), per_segment) @ points[indices]

    def about(centre: np.ndarray, offsets: list[tuple[float, float]], sign: int = 1) -> np.ndarray:
        return np.stack([centre + sign * x * right[0] + y * down[0] for x, y in offsets])

    def pit(corner: int, sign: float, side: str) -> np.ndarray:
        reach, dimple = of[f"pit_{side}"], of[f"dimple_{side}"]
        deepest = sign * (1.5 * right + dimple) - 0.2 * down
        offsets = [sign * 0.5 * right - reach, deepest, sign * right + reach]
        return spline(3, 3) @ (points[corner] + np.concatenate(offsets))

    base, jaw, rim = points[31:36], points[:17], points[[59, 58, 57, 56, 55]]
    top, bottom = curve([48, 49, 50, 51, 52, 53, 54]), curve([54, 55, 56, 57, 58, 59, 48])
    inner_top = curve([48, 60, 61, 62, 63, 64, 54], 3)
    inner_bottom = curve([54, 64, 65, 66, 67, 60, 48], 3)
    beard = curve([48, 49, 50, 51, 52, 53, 54], 3)[1:-1] - 0.8 * down
    under_nose = beard[14:1:-3] + 0.45 * (base[::-1] - beard[14:1:-3])
    hair = spline(11, 3) @ hairline
    smile = spline(3, 4) @ fold[:6].reshape(2, 3, -1)
    forehead = spline(5, 2) @ of["forehead"]
    eyes = np.stack([np.concatenate([curve(r[:4]), curve([*r[3:], r[0]])[1:]]) for r in _RINGS])
    upper, lower = eyes[:, :LIDS], eyes[:, LIDS - 1 :]
    crease = upper - np.stack([of["lid_left"], of["lid_right"]])
    brows = np.stack([curve(r, 3) for r in ([21, 20, 19, 18, 17], [22, 23, 24, 25, 26])])
    taper = spline(5, 3) @ [[0.8], [1.0], [0.95], [0.75], [0.2]] @ of["brow"]
    brow_top, brow_low = brows - taper, brows + taper
    # The chin throws a shadow on the neck: the jaw once more, 3 and 22 millimetres lower.
    shadow = [jaw[3:14] + 3.0 * of["picture_down"], jaw[12:3:-1] + 22.0 * of["picture_down"]]
    hole = [(-3.2, -0.3), (0.0, -2.6), (3.2, -0.3), (0.0, 0.4)]
    wing = [(0.5, -8.5), (2.8, -3.5), (0.0, 0.8)]
    chin = [(-11.0, 3.0), (-6.0, -3.5), (0.0, -5.5), (6.0, -3.5), (11.0, 3.0)]
    around = {
        "face": np.concatenate([spline(17, 2) @ jaw, hair[::-1]]),
        "hair_edge": hair,
        "soft_shadow": 0.5 * np.concatenate(shadow),
    }
    folds = {
        "smile": smile,
        "soft_smile": 0.5 * smile[:, 2:],
        "forehead_lines": forehead,
        "forehead_ridges": forehead - 2.0 * down,
    }
    under_base = np.concatenate([spline(5, 3) @ base, base[[4, 2, 0]] + 5.0 * down])
    middle = {
        "holes": np.stack([about(0.8 * base[k] + 0.2 * base[2], hole) for k in (1, 3)]),
        "soft_under_nose": 0.5 * under_base,
        "wings": np.stack([spline(3, 3) @ about(base[k], wing, s) for k, s in ((0, -1), (4, 1))]),
        "moustache": np.concatenate([beard, under_nose]),
        "chin": spline(5, 2) @ about(0.45 * points[57] + 0.55 * points[8], chin),
    }
    mouth = {
        "upper_lip": np.concatenate([top, inner_top[::-1]]),
        "lower_lip": np.concatenate([bottom, inner_bottom[::-1]]),
        "parting": inner_top,
        "opening": np.concatenate([inner_top, inner_bottom[1:-1]]),
        "inner_edges": np.stack([curve([60, 61, 62, 63, 64]), curve([60, 67, 66, 65, 64])]),
        "glint": 0.5 * (points[[67, 66, 65]] + rim[1:4]),
        "soft_under_lip": 0.5 * (rim + 3.4 * down),
        "pits": np.stack([pit(48, -1.0, "left"), pit(54, 1.0, "right")]),
    }
    around_eyes = {
        "eyes": eyes,
        "crease": crease,
        "lids": np.concatenate([upper, crease[:, ::-1]], axis=1),
        "bags": lower[:, 1:-1] + np.stack([of["bag_left"], of["bag_right"]]),
    }
    strands = np.stack([brow_low[:, :-2], brow_top[:, 2:]], axis=2)
    on_brows = {
        "brows": np.concatenate([brow_top, brow_low[:, ::-1]], axis=1),
        "strands": strands.reshape(-1, 2, strands.shape[-1]),
    }
    return [around, folds, {**middle, **mouth}, {**around_eyes, **on_brows}]


_REGIONS = _curves()
_CURVES = {name: weights for region in _REGIONS for name, weights in region.items()}
_NUM_CONTROLS = sum(len(part.reshape(-1, 3)) for part in _CONTROLS.values())


def _blocks() -> list[tuple[slice, slice, np.ndarray]]:
    """Return control points, places of the curves and their weights, by region."""
    blocks, start = [], 0
    for region in _REGIONS:
        weights = geometry.stack(region)[:, :_NUM_CONTROLS].T
        used = np.flatnonzero(weights.any(axis=1))
        columns = slice(used[0], used[-1] + 1)
        rows = slice(start, start + weights.shape[1])
        blocks.append((columns, rows, np.ascontiguousarray(weights[columns])))
        start = rows.stop
    return blocks


_BLOCKS = _blocks()
_BY_LENGTHS = np.ascontiguousarray(geometry.stack(_CURVES)[:, _NUM_CONTROLS:].T)


@dataclasses.dataclass(frozen=True)
class _Rest:
    """The points of a head at rest, of a person of average measures.

    Attributes:
      points: float64 [3, n] in face coordinates.
      places: where its parts and, behind them, the curves of `_CURVES` lie.
      rows: the parts alone, without their shapes.
      wide: points that spread with the width of the head.
      ball: those among them that swell with the hair, about the centre of the skull.
    """

    points: np.ndarray
    places: Places
    rows: dict[str, slice]
    wide: slice
    ball: slice


@functools.cache
def _rest(style: str, glasses: bool) -> _Rest:
    hairline = _HAIRLINE.copy()
    if style == "bald":
        hairline[2:-2, 1] -= 22.0
    if style == "side":
        hairline[4:7, 1] += (5.0, 1.0, -4.0)
    still = {
        "frown": np.array([[(s * 6.0, -32.0, 5.0), (s * 4.2, -14.0, 8.0)] for s in (-1.0, 1.0)]),
        "bunny": _BUNNY,
        "irises": np.array([(0.0, 0.0, -2.0)] * 2),
        "neck": np.array([(-1.0, 58.0, -66.0), (1.0, 58.0, -66.0)]),
    }
    if style == "bun":
        still["bun"] = np.array([(0.0, -128.0, -96.0)])
    if glasses:
        still["rims"] = np.zeros((2, 18, 3))
        still["arms"] = np.array([(56.5, 0.0, 3.0), (75.0, -5.0, -78.0)]) * _SIDES
        still["bridge"] = np.array([(-10.0, 1.0, 9.0), (0.0, -2.0, 11.0), (10.0, 1.0, 9.0)])
    wide = {"bones": _BONES, "ears": _EAR * _SIDES, "inner_ears": _INNER_EAR * _SIDES}
    if style in BROAD:
        wide["curtains"] = _CURTAIN * _SIDES
        wide["locks"] = (_LOCKS * _SIDES[:, None]).reshape(-1, 5, 3)
    if style.endswith("fringe"):
        wide["fringe"] = _FRINGE
    ball = {"skull": _SKULL} if style in ("bald", "curly") else {"skull": _SKULL, "comb": _COMB}
    parts = {**_CONTROLS, "hairline": hairline, **still, **wide, **ball, "body": _BODY}
    found = geometry.places(parts)
    points = geometry.stack(parts).T.copy()
    skull, body = found["skull"][0].start, found["body"][0].start
    return _Rest(
        points,
        {**found, **geometry.places(_CURVES, points.shape[1])},
        {name: rows for name, (rows, _) in found.items()},
        wide=slice(found["bones"][0].start, body),
        ball=slice(skull, body),
    )


def _points(
    person: Person, muscles: Muscles, landmarks: np.ndarray, look: list[float]
) -> np.ndarray:
    """Return the points of `_rest` in one frame: float64 [3, n]."""
    p, mean = person, muscles.mean
    rest = _rest(p.style, p.glasses)
    points = rest.points.copy()
    x, y, z = points
    at = rest.rows
    x[at["hairline"]] *= p.head_width
    x[rest.wide] *= p.head_width
    points[:, rest.ball] *= {"bald": 1.0, "buzz": 1.02, "curly": 1.10 + p.hair_volume}.get(
        p.style, 1.03 + p.hair_volume
    )
    y[rest.ball] += _SKULL_Y
    z[rest.ball] += _SKULL_Z
    points[:, at["landmarks"]] = landmarks.T
    points[:, at["folds"]] = landmarks.T @ _FOLD_WEIGHTS + _FOLD_OFFSETS
    # Lines that muscles and age draw into the skin.
    y[at["forehead"]] -= 2.5 * (mean[1] + mean[2])
    y[at["frown"]] += (mean[4] + mean[9]) * _FROWN_DROP
    y[at["hairline"]][2:-2] -= p.hairline
    x[at["neck"]] *= 50.0 if p.masculine else 43.0
    centre, look_x = (31.5 + p.eye_spacing) * p.head_width, 5.0 * (look[0] - 0.5)
    x[at["irises"]] = (look_x - centre, look_x + centre)
    y[at["irises"]] = 0.6 + 3.0 * (look[1] - 0.5)
    if p.glasses:
        square = 2.0 / (2.0 + 3.0 * p.glasses_shape)
        across, down = np.sign(_POWER) * np.abs(_POWER) ** square * [[23.5], [17.5]]
        rim = [33.5 + across, down + 4.0, 9.0 - 0.25 * np.maximum(across, 0.0)]
        points[:, at["rims"]] = (np.stack(rim, axis=1) * _SIDES).reshape(-1, 3).T
    return points


def _lengths(
    person: Person, muscles: Muscles, right: list[float], down: list[float], mm: float
) -> np.ndarray:
    """Return the vectors of `_LENGTHS` in pixels, float64 [2, n].

    `right` and `down` are 1 mm.
    """
    p, halves = person, (muscles.left, muscles.right)
    # A raised lid folds away behind its crease, a lowered one shows more of itself.
    lids = [max(0.8, 3.4 - 1.0 * p.hood - 2.2 * half[5] + 2.5 * half[43]) for half in halves]
    bags = [4.4 - 1.2 * half[6] - 0.8 * half[7] for half in halves]
    # A dimpler makes a pit near the corner of the mouth.
    pits = [1.5 + 5.0 * half[14] for half in halves]
    dimples = [2.0 * half[14] for half in halves]
    downwards = (1.0, *lids, *bags, 0.5 * p.brow_thickness, *pits)
    return np.array(
        [
            [r, *[d * x for x in downwards], *[r * x for x in dimples], straight]
            for r, d, straight in zip(right, down, (0.0, mm), strict=True)
        ]
    )


@dataclasses.dataclass(frozen=True)
class Outlines:
    """Curves of one frame.

    Attributes:
      flat: by name, in pixels of the image: float64 [..., 2].
      ink: the same for drawing (`canvas.fixed`).
      down: a millimetre down in the plane of the face, in pixels: float64 [2].
    """

    flat: Rows
    ink: Rows
    down: np.ndarray


def trace(
    person: Person, muscles: Muscles, landmarks: np.ndarray, camera: Camera, look: list[float]
) -> Outlines:
    """Return all curves of a frame.

    Args:
      landmarks: float64 [68, 3] in face coordinates.
      look: 2 uniform numbers for the direction of the gaze.
    """
    points = camera.turn(_points(person, muscles, landmarks, look))
    points[:, -len(_BODY) :] = _BODY.T  # the body does not turn with the head
    points = camera.flatten(points)
    right, down, _ = (camera.rotation.T * camera.scale).tolist()
    lengths = _lengths(person, muscles, right[:2], down[:2], camera.scale)
    curves = lengths @ _BY_LENGTHS
    for controls, places, weights in _BLOCKS:
        curves[:, places] += points[:, controls] @ weights
    flat = np.concatenate([points, curves], axis=1).T.copy()
    rows = _rest(person.style, person.glasses).places
    return Outlines(Rows(rows, flat), Rows(rows, canvas.fixed(flat)), np.array(down[:2]))

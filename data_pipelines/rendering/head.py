"""What surrounds the face: skull, hair, ears, neck, clothes, spectacles and things in the way."""

import numpy as np

from data_pipelines.rendering import canvas
from data_pipelines.rendering.canvas import mix, shade
from data_pipelines.rendering.geometry import spline
from data_pipelines.rendering.identity import Person

_SIDES = np.array([[[-1.0, 1.0, 1.0]], [[1.0, 1.0, 1.0]]])
_ROUND = np.linspace(0.0, 2.0 * np.pi, 19)[:-1]
_SKULL_CENTRE, _SKULL_RADII = np.array([0.0, -26.0, -86.0]), np.array([75.0, 84.0, 96.0])
_BALL = np.concatenate(
    [
        np.stack(
            [np.sin(_ROUND) * np.cos(b), np.full(18, np.sin(b)), np.cos(_ROUND) * np.cos(b)], axis=1
        )
        for b in (-1.5, -1.1, -0.75, -0.4, -0.1, 0.35)
    ]
)
_SKULL = _BALL * _SKULL_RADII
# Combed lines from the crown to the forehead and the temples.
_COMB = np.array(
    [
        [
            (np.sin(a) * np.cos(e), -np.sin(e), np.cos(a) * np.cos(e))
            for e in (1.4, 1.05, 0.75, 0.5, 0.2)
        ]
        for a in np.linspace(-1.75, 1.75, 18)
    ]
) * (_SKULL_RADII + np.array([1.0, 0.0, 2.0]))
_HAIRLINE = np.array(
    [
        (-69.0, 6.0, -76.0),
        (-68.5, -18.0, -68.0),
        (-64.0, -40.0, -54.0),
        (-49.0, -58.0, -37.0),
        (-25.0, -67.0, -23.0),
        (0.0, -69.0, -18.0),
        (25.0, -67.0, -23.0),
        (49.0, -58.0, -37.0),
        (64.0, -40.0, -54.0),
        (68.5, -18.0, -68.0),
        (69.0, 6.0, -76.0),
    ]
)
# fmt: off
_EAR = np.array(
    [(72, 16, -76), (73, -8, -84), (75, -17, -90), (80, -18, -95), (83, -9, -98),
     (82, 6, -97), (78, 18, -92), (77, 27, -86), (73, 27, -80)],
    float,
)
_INNER_EAR = np.array([(75, -8, -86), (79, -10, -93), (79, 4, -93), (75, 12, -86)], float)
_CURTAIN = np.array(  # long hair beside the face, from the parting down and back up
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
BODY = np.array(
    [(-56, 168, -64), (-150, 200, -70), (-150, 330, -70), (150, 330, -70), (150, 200, -70),
     (56, 168, -64), (28, 186, -30), (0, 194, -22), (-28, 186, -30)],
    float,
)
# fmt: on
_BROAD = ("long", "long_fringe")
_SHADOW_DROP = np.repeat([3.0, 22.0], [11, 9])  # millimetres: upper and lower edge
_POWER = np.stack([np.cos(_ROUND), np.sin(_ROUND)])


def shapes(person: Person) -> dict[str, np.ndarray]:
    """Curves of the head in face coordinates, [n, 3] or [k, n, 3]."""
    p, style = person, person.style
    wide = np.array([p.head_width, 1.0, 1.0])
    volume = {"bald": 1.0, "buzz": 1.02, "curly": 1.10 + p.hair_volume}.get(
        style, 1.03 + p.hair_volume
    )
    hairline = _HAIRLINE * wide
    hairline[2:-2, 1] -= p.hairline + (22.0 if style == "bald" else 0.0)
    if style == "side":
        hairline[4:7, 1] += (5.0, 1.0, -4.0)
    out = {
        "skull": _SKULL * (wide * volume) + _SKULL_CENTRE,
        "hairline": hairline,
        "ears": _EAR * wide * _SIDES,
        "inner_ears": _INNER_EAR * wide * _SIDES,
        "neck": np.array([(-1.0, 58.0, -66.0), (1.0, 58.0, -66.0)])
        * [50.0 if p.masculine else 43.0, 1.0, 1.0],
    }
    if style not in ("bald", "curly"):
        out["comb"] = _COMB * (wide * volume) + _SKULL_CENTRE
    if style in _BROAD:
        out["curtains"] = _CURTAIN * wide * _SIDES
        out["locks"] = (_LOCKS * wide * _SIDES[:, None]).reshape(-1, 5, 3)
    if style.endswith("fringe"):
        out["fringe"] = _FRINGE * wide
    if style == "bun":
        out["bun"] = np.array([(0.0, -128.0, -96.0)])
    if p.glasses:
        square = 2.0 / (2.0 + 3.0 * p.glasses_shape)
        x, y = np.sign(_POWER) * np.abs(_POWER) ** square * [[23.5], [17.5]]
        rim = np.stack([33.5 + x, y + 4.0, 9.0 - 0.25 * np.maximum(x, 0.0)], axis=1)
        out["rims"] = rim * _SIDES
        out["arms"] = np.array([(56.5, 0.0, 3.0), (75.0, -5.0, -78.0)]) * _SIDES
        out["bridge"] = np.array([(-10.0, 1.0, 9.0), (0.0, -2.0, 11.0), (10.0, 1.0, 9.0)])
    return out


def _evenly(outline: np.ndarray, count: int) -> np.ndarray:
    """Points at equal distances along a closed outline."""
    closed = np.concatenate([outline, outline[:1]])
    way = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    at = np.linspace(0.0, way[-1], count, endpoint=False)
    return np.stack([np.interp(at, way, closed[:, k]) for k in (0, 1)], axis=1)


def paint_behind(
    image: np.ndarray,
    soft: np.ndarray,
    person: Person,
    flat: dict[str, np.ndarray],
    face: np.ndarray,
    mm: float,
    u: list[float],
) -> None:
    """Everything up to the bare face: back hair, body, ears, skull and skin.

    `face` is its outline; `u`: 3 uniform numbers for the colour of the clothes.
    """
    p = person
    jaw, hairline = flat["landmarks"][:17], flat["hairline"]
    cap = canvas.hull(flat["skull"])
    back = shade(p.hair, 0.62)
    if p.style in _BROAD:
        canvas.fill(
            image, canvas.hull(np.concatenate([flat["curtains"].reshape(-1, 2), cap])), back
        )
    if p.style == "bun":
        canvas.disc(image, flat["bun"][0], 27.0 * mm, shade(p.hair, 0.8))
    body = flat["body"]
    neck = np.concatenate([flat["neck"], body[5:], body[:1]])
    cloth = (30.0 + 180.0 * u[0], 30.0 + 180.0 * u[1], 30.0 + 180.0 * u[2])
    canvas.fill(image, neck, shade(p.skin, 0.80))
    canvas.fill(image, body, cloth)
    canvas.stroke(image, body[5:], shade(cloth, 0.7), max(1, round(2.5 * mm)))
    # The chin throws a shadow on the neck: the jaw once more, lower.
    shadow = np.concatenate([jaw[3:14], jaw[12:3:-1]])
    shadow[:, 1] += _SHADOW_DROP * mm
    canvas.fill(soft, shadow / 2, 78)
    if p.style not in _BROAD:
        canvas.fill(image, flat["ears"], shade(p.skin, 0.92))
        canvas.stroke(image, flat["inner_ears"], shade(p.skin, 0.66))
    bald = p.style == "bald"
    canvas.fill(image, cap, p.skin if bald else mix(p.hair, p.skin, 0.25 * (p.style == "buzz")))
    if p.style == "curly":
        for at in _evenly(cap, 22):
            if at[1] < hairline[2:9, 1].max():
                canvas.disc(image, at, 9.0 * mm, shade(p.hair, 0.95))
    if "comb" in flat:
        canvas.stroke(image, flat["comb"][::2], shade(p.hair, 0.80))
        canvas.stroke(image, flat["comb"][1::2], mix(shade(p.hair, 1.12), (255, 250, 240), 0.03))
    inner = canvas.hull(np.concatenate([jaw, hairline[1:10:8], flat["bones"]]))
    canvas.fill(image, face, p.skin)
    canvas.fill(image, inner, p.skin)


def paint_hair_in_front(
    image: np.ndarray,
    detail: np.ndarray,
    person: Person,
    flat: dict[str, np.ndarray],
    top: np.ndarray,
) -> None:
    """Fringe and long hair that hang over the face; `top` is the hairline."""
    hair = person.hair
    if "fringe" in flat:
        edge = (spline(6, 3) @ flat["fringe"])[::-1]
        band = np.concatenate([top[5:-5] + 0.12 * (top[5:-5] - edge.mean(0)), edge])
        canvas.fill(image, band, hair)
        canvas.fill(detail, band, 128)
        roots = top[np.linspace(7, len(top) - 8, 8).astype(int)]
        tips = edge[::-1][np.linspace(0, len(edge) - 1, 8).astype(int)]
        strands = np.stack([roots, tips], axis=1)
        canvas.stroke(image, strands[::2], shade(hair, 0.78))
        canvas.stroke(image, strands[1::2], shade(hair, 1.14))
    if "curtains" in flat:
        outlines = spline(14, 2) @ flat["curtains"]
        for outline in outlines:
            canvas.fill(image, outline, hair)
            canvas.fill(detail, outline, 128)
        canvas.stroke(image, flat["locks"][::2], shade(hair, 0.8))
        canvas.stroke(image, flat["locks"][1::2], shade(hair, 1.14))


def paint_spectacles(
    image: np.ndarray, person: Person, flat: dict[str, np.ndarray], mm: float, brightness: float
) -> None:
    width = max(1, round(1.7 * mm))
    colour = shade(person.glasses_colour, brightness)
    canvas.stroke(image, flat["arms"], colour, width)
    canvas.stroke(image, flat["rims"], colour, width, closed=True)
    canvas.stroke(image, flat["bridge"], colour, width)


def paint_obstacle(
    image: np.ndarray, flat: dict[str, np.ndarray], person: Person, mm: float, u: list[float]
) -> None:
    """A hand, a bar or a microphone over an edge of the face. `u`: 5 uniform numbers."""
    jaw = flat["landmarks"][:17]
    colour = (30.0 + 200.0 * u[1], 30.0 + 200.0 * u[2], 30.0 + 200.0 * u[3])
    side = jaw[3] if u[4] < 0.5 else jaw[13]
    inwards = (jaw[8] - side) / np.linalg.norm(jaw[8] - side)
    if u[0] < 0.4:  # fingers that hold the chin
        skin = shade(person.skin, 0.86)
        for k in range(4):
            tip = side + inwards * (8.0 + 12.0 * k) * mm + [0.0, (-4.0 + 3.0 * k) * mm]
            root = tip + np.array([(side[0] - jaw[8, 0]) * 0.5, 75.0 * mm])
            finger = np.stack([tip, root])
            canvas.stroke(image, finger, shade(person.skin, 0.5), max(2, round(14.0 * mm)))
            canvas.stroke(image, finger, skin, max(1, round(11.5 * mm)))
    elif u[0] < 0.7:  # a post in front of one side
        outer = side + (side - jaw[8]) * 0.1
        shift = np.array([np.sign(side[0] - jaw[8, 0]) * 34.0 * mm, 0.0])
        reach = np.array([0.0, 300.0 * mm])
        top, low = outer - reach, outer + reach
        canvas.fill(image, np.stack([top, top + shift, low + shift, low]), colour)
    else:  # a microphone below the mouth
        head = jaw[8] + (side - jaw[8]) * 0.25 - [0.0, 2.0 * mm]
        foot = head + np.array([(side[0] - jaw[8, 0]) * 0.4, 120.0 * mm])
        canvas.stroke(image, np.stack([head, foot]), (24.0, 24.0, 26.0), max(2, round(9.0 * mm)))
        canvas.disc(image, head, 13.0 * mm, (52.0, 52.0, 56.0))
        canvas.disc(image, head - 3.0 * mm, 6.0 * mm, (92.0, 92.0, 96.0))

"""Surroundings of the face: skull, hair, ears, neck, clothes, glasses, obstacles."""

import numpy as np

from data_pipelines.rendering import canvas
from data_pipelines.rendering.canvas import mix, shade
from data_pipelines.rendering.geometry import Rows, spline
from data_pipelines.rendering.identity import Person
from data_pipelines.rendering.outlines import BROAD


def _evenly(outline: np.ndarray, count: int) -> np.ndarray:
    """Return points at equal distances along a closed outline."""
    x, y = np.concatenate([outline, outline[:1]]).T.astype(float)
    way = np.zeros(len(x))
    np.cumsum(np.hypot(x[1:] - x[:-1], y[1:] - y[:-1]), out=way[1:])
    at = np.arange(count) * (way[-1] / count)
    return np.stack([np.interp(at, way, x), np.interp(at, way, y)], axis=1)


def paint_behind(
    image: np.ndarray,
    soft: np.ndarray,
    person: Person,
    flat: Rows,
    ink: Rows,
    mm: float,
    u: list[float],
) -> None:
    """Draw everything up to the bare face: back hair, body, ears, skull and skin.

    `flat` and `ink` are fields of `outlines.Outlines`; `u`: 3 numbers for the clothes.
    """
    p = person
    cap = canvas.hull(flat["skull"])
    if p.style in BROAD:
        mane = np.concatenate([flat["curtains"].reshape(-1, 2), cap])
        canvas.fill(image, canvas.hull(mane), shade(p.hair, 0.62))
    if p.style == "bun":
        canvas.disc(image, flat["bun"][0], 27.0 * mm, shade(p.hair, 0.8))
    body = ink["body"]
    neck = np.concatenate([ink["neck"], body[5:], body[:1]])
    cloth = (30.0 + 180.0 * u[0], 30.0 + 180.0 * u[1], 30.0 + 180.0 * u[2])
    canvas.fill(image, neck, shade(p.skin, 0.80))
    canvas.fill(image, body, cloth)
    canvas.stroke(image, body[5:], shade(cloth, 0.7), max(1, round(2.5 * mm)))
    canvas.fill(soft, ink["soft_shadow"], 78)
    if p.style not in BROAD:
        canvas.fill(image, ink["ears"], shade(p.skin, 0.92))
        canvas.stroke(image, ink["inner_ears"], shade(p.skin, 0.66))
    bald = p.style == "bald"
    canvas.fill(image, cap, p.skin if bald else mix(p.hair, p.skin, 0.25 * (p.style == "buzz")))
    if p.style == "curly":
        lowest = flat["hairline"][2:9, 1].max()
        for x, y in _evenly(cap, 22).tolist():
            if y < lowest:
                canvas.disc(image, (x, y), 9.0 * mm, shade(p.hair, 0.95))
    if "comb" in ink:
        comb = ink["comb"]
        canvas.stroke(image, comb[::2], shade(p.hair, 0.80))
        canvas.stroke(image, comb[1::2], mix(shade(p.hair, 1.12), (255, 250, 240), 0.03))
    inner = np.concatenate([flat["landmarks"][:17], flat["hairline"][1:10:8], flat["bones"]])
    canvas.fill(image, ink["face"], p.skin)
    canvas.fill(image, canvas.hull(inner), p.skin)


def paint_hair_in_front(
    image: np.ndarray, detail: np.ndarray, person: Person, flat: Rows, ink: Rows
) -> None:
    """Draw fringe and long hair that hang over the face."""
    hair = person.hair
    if "fringe" in flat:
        top, edge = flat["hair_edge"], (spline(6, 3) @ flat["fringe"])[::-1]
        band = np.concatenate([top[5:-5] + 0.12 * (top[5:-5] - edge.mean(0)), edge])
        canvas.fill(image, band, hair)
        canvas.fill(detail, band, 128)
        roots = top[np.linspace(7, len(top) - 8, 8).astype(int)]
        tips = edge[::-1][np.linspace(0, len(edge) - 1, 8).astype(int)]
        strands = np.stack([roots, tips], axis=1)
        canvas.stroke(image, strands[::2], shade(hair, 0.78))
        canvas.stroke(image, strands[1::2], shade(hair, 1.14))
    if "curtains" in flat:
        for outline in spline(14, 2) @ flat["curtains"]:
            canvas.fill(image, outline, hair)
            canvas.fill(detail, outline, 128)
        locks = ink["locks"]
        canvas.stroke(image, locks[::2], shade(hair, 0.8))
        canvas.stroke(image, locks[1::2], shade(hair, 1.14))


def paint_spectacles(
    image: np.ndarray, person: Person, ink: Rows, mm: float, brightness: float
) -> None:
    """Draw rims, arms and bridge in front of everything."""
    width = max(1, round(1.7 * mm))
    colour = shade(person.glasses_colour, brightness)
    canvas.stroke(image, ink["arms"], colour, width)
    canvas.stroke(image, ink["rims"], colour, width, closed=True)
    canvas.stroke(image, ink["bridge"], colour, width)


def paint_obstacle(
    image: np.ndarray, jaw: np.ndarray, person: Person, mm: float, u: list[float]
) -> None:
    """Draw a hand, a bar or a microphone over an edge of the face.

    `u`: 5 uniform numbers.
    """
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

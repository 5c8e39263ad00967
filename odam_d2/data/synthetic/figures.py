"""Draws the parts of a synthetic crowd: articulated people, things that are not people, and what stands behind them.

Shapes: (h,w) image or sprite, (K,2) polygon of x, y. Colours are BGR, 0 to 255. A body is 1 high and stands on y = 1.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

# Sprites are painted this much larger and then averaged: smooth edges.
SUPERSAMPLE = 2
# The lightest and the darkest skin; every person gets a mixture.
SKIN = np.array([[185, 205, 240], [40, 60, 95]], np.float32)
# Outline of every round part, in units of its radii.
_CIRCLE = np.stack([np.cos(np.arange(16) * np.pi / 8), np.sin(np.arange(16) * np.pi / 8)], axis=1)
# Left, right.
SIDES = (-1, 1)


@dataclass(frozen=True)
class Sprite:
    """A drawing cut out along its outline.

    Args:
        colour: (h,w,3) float32, 0 to 255, already multiplied by ``alpha``.
        alpha: (h,w) float32 in [0, 1], coverage.
        mask: (h,w) bool, ``alpha`` of at least one half; it touches all four sides.
        head: (4,) int, XYXY of a person's head in sprite pixels; zeros for a thing.
    """

    colour: np.ndarray
    alpha: np.ndarray
    mask: np.ndarray
    head: np.ndarray


class _Part(NamedTuple):
    polygon: np.ndarray  # (K,2), convex
    fabric: str
    shade: float = 1.0


class _Canvas(NamedTuple):
    colour: np.ndarray  # (h,w,3) float32
    light: np.ndarray  # (h,w) float32, multiplies the colour
    alpha: np.ndarray  # (h,w) uint8, 0 or 255


def random_colour(rng: np.random.Generator) -> np.ndarray:
    """Return a colour of cloth or paint, (3,) float32."""
    hsv = np.array([[[180 * rng.random(), 255 * rng.beta(1.1, 1.4), 255 * rng.beta(1.5, 1.3)]]], np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].astype(np.float32)


def texture(rng: np.random.Generator, height: int, width: int, unit: float) -> np.ndarray:
    """Return a random pattern: plain, stripes, checks, patches, gradient or dots, with soft folds.

    Args:
        rng: where the randomness comes from.
        height: pixels.
        width: pixels.
        unit: pixels that the pattern's period is measured in, for example the height of a body.

    Returns:
        (height,width,3) float32, 0 to 255.
    """
    first, second = random_colour(rng), random_colour(rng)
    angle, period = rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)]), max(3.0, unit * rng.uniform(0.03, 0.1))
    y, x = np.mgrid[:height, :width].astype(np.float32) / period
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    kind = rng.choice(
        ["plain", "stripes", "checks", "patches", "gradient", "dots"], p=[0.25, 0.2, 0.15, 0.15, 0.15, 0.1]
    )
    if kind == "plain":
        mix = np.zeros((height, width), np.float32)
    elif kind == "stripes":
        mix = (u % 2 < rng.uniform(0.5, 1.5)).astype(np.float32)
    elif kind == "checks":
        mix = ((u % 2 < 1).astype(np.float32) + (v % 2 < 1)) / 2
    elif kind == "patches":
        mix = (_noise(rng, height, width, period) > 0.5).astype(np.float32)
    elif kind == "gradient":
        mix = y / max(y[-1, 0], 1e-6)
    else:
        mix = ((u % 2 - 1) ** 2 + (v % 2 - 1) ** 2 < 0.35).astype(np.float32)
    folds = 0.8 + 0.4 * _noise(rng, height, width, unit * 0.12)
    return ((first + (second - first) * mix[..., None]) * folds[..., None]).clip(0, 255)


def _noise(rng: np.random.Generator, height: int, width: int, period: float) -> np.ndarray:
    """Smooth noise in [0, 1] with about one value every ``period`` pixels."""
    coarse = rng.random((int(height / period) + 2, int(width / period) + 2), dtype=np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)


def _round(centre: np.ndarray, radius_x: float, radius_y: float | None = None) -> np.ndarray:
    return centre + _CIRCLE * (radius_x, radius_x if radius_y is None else radius_y)


def _hull(*polygons: np.ndarray) -> np.ndarray:  # polygons or single points
    return cv2.convexHull(np.concatenate([np.atleast_2d(p) for p in polygons]).astype(np.float32))[:, 0]


def _limb(start: np.ndarray, end: np.ndarray, thick: float, thin: float) -> np.ndarray:
    return _hull(_round(start, thick), _round(end, thin))


def _down(angle: float) -> np.ndarray:
    """Unit vector at an angle from straight down, positive to the right."""
    return np.array([np.sin(angle), np.cos(angle)])


def draw_person(rng: np.random.Generator, height: float, light: int = 0) -> Sprite:
    """Draw a person of random build, pose, clothes and colours.

    Args:
        rng: where the randomness comes from.
        height: pixels from crown to sole when standing upright; raised arms reach higher, bent knees lower.
        light: -1, 0 or 1, the side the light comes from.
    """
    facing = rng.choice(["front", "back", "left", "right"], p=[0.45, 0.25, 0.15, 0.15])
    ahead = {"left": -1, "right": 1}.get(facing, 0)
    breadth = rng.uniform(0.85, 1.25) * (rng.uniform(0.5, 0.7) if ahead else rng.uniform(0.85, 1.0))
    lean = rng.normal(0, 0.05)
    hip = np.array([0, 0.5])
    neck = hip - rng.uniform(0.31, 0.35) * _down(-lean)
    head = neck - rng.uniform(0.075, 0.09) * _down(-lean + rng.normal(0, 0.12))
    head_size = np.array([0.051, 0.068]) * rng.uniform(0.9, 1.15)
    arms = [_arm(rng, neck + np.array([side * 0.105 * breadth, 0.05]), side, ahead) for side in SIDES]
    torso = _hull(
        *(_round(neck + np.array([side * 0.09 * breadth, 0.055]), 0.04) for side in SIDES),
        *(_round(hip + np.array([side * 0.055 * breadth, 0]), 0.045) for side in SIDES),
    )
    if rng.random() < 0.25:  # a coat
        torso = _hull(torso, *(hip + np.array([side * 0.105 * breadth, rng.uniform(0.08, 0.2)]) for side in SIDES))
    arms_hidden = int(rng.integers(2)) if ahead or rng.random() < 0.6 else 2
    hair = _hair(rng, head, head_size, facing)
    parts = [arm for side in range(2) if side == arms_hidden for arm in arms[side]]
    parts = [part._replace(shade=0.75) for part in parts] + _legs(rng, hip, breadth, ahead)
    parts += [hair[0]] if facing == "front" else []
    parts += [_Part(_limb(neck - [0, 0.02], neck + [0, 0.02], 0.03, 0.03), "skin", 0.8), _Part(torso, "shirt")]
    if rng.random() < 0.25:  # a bag, on the back or at the side
        bag = neck + np.array([-ahead * 0.1 if ahead else rng.choice([0, 0, -0.11, 0.11]), rng.uniform(0.14, 0.3)])
        if facing != "front" or bag[0]:
            parts.append(_Part(_round(bag, 0.065, 0.1), "bag"))
    parts += [arm for side in range(2) if side != arms_hidden for arm in arms[side]]
    face = _Part(_round(head, *head_size), "skin")
    parts += [face, *hair[1:]] + ([hair[0]] if facing == "back" else [])
    if facing == "front":
        parts += [_Part(_round(head + head_size * [side * 0.4, 0.1], 0.009), "eye") for side in SIDES]
        parts.append(_Part(_round(head + head_size * [0, 0.6], 0.018, 0.006), "eye", 1.6))
    colours = {
        "skin": SKIN[0] + (SKIN[1] - SKIN[0]) * np.float32(rng.beta(1.0, 1.5)),
        "hair": random_colour(rng) * np.float32(rng.uniform(0.1, 0.6)) + 15,
        "shoe": random_colour(rng) * np.float32(rng.uniform(0.2, 1.0)),
        "eye": np.full(3, 35, np.float32),
    }
    return _render(rng, parts, colours, height, light, [face.polygon, hair[1].polygon])


def _arm(rng: np.random.Generator, shoulder: np.ndarray, side: int, ahead: int) -> list[_Part]:
    pose = rng.choice(["hang", "bend", "hip", "raise"], p=[0.5, 0.3, 0.12, 0.08])
    if pose == "hang":
        upper = side * rng.uniform(0.0, 0.3) if not ahead else rng.normal(0, 0.35)
        lower = upper + (ahead or -side) * rng.uniform(0, 0.4)
    elif pose == "bend":
        upper = side * rng.uniform(0.05, 0.4)
        lower = upper + (ahead or -side) * rng.uniform(1.0, 2.2)
    elif pose == "hip":
        upper, lower = side * rng.uniform(0.55, 0.8), -side * rng.uniform(0.5, 0.8)
    else:
        upper = side * rng.uniform(1.6, 2.8)
        lower = upper + side * rng.uniform(-0.3, 0.8)
    elbow = shoulder + rng.uniform(0.15, 0.18) * _down(upper)
    hand = elbow + rng.uniform(0.14, 0.17) * _down(lower)
    sleeve = "shirt" if rng.random() < 0.6 else "skin"
    return [
        _Part(_limb(shoulder, elbow, 0.036, 0.029), "shirt"),
        _Part(_round(hand, 0.024), "skin"),
        _Part(_limb(elbow, hand, 0.027, 0.021), sleeve),
    ]


def _legs(rng: np.random.Generator, hip: np.ndarray, breadth: float, ahead: int) -> list[_Part]:
    stride = rng.uniform(0.15, 0.45) if rng.random() < (0.6 if ahead else 0.2) else rng.uniform(0.0, 0.1)
    dress = rng.choice(["trousers", "shorts", "skirt"], p=[0.65, 0.15, 0.2])
    cloth = {"trousers": ("trousers", "trousers"), "shorts": ("trousers", "skin"), "skirt": ("skin", "skin")}[dress]
    first = int(rng.integers(2))
    parts: list[_Part] = []
    for side in (SIDES[first], SIDES[1 - first]):
        shade = 0.75 if side == SIDES[first] else 1.0
        joint = hip + np.array([side * 0.05 * breadth, 0.01])
        angle = side * stride + rng.normal(0, 0.03)
        knee = joint + 0.235 * _down(angle)
        ankle = knee + 0.225 * _down(angle - (ahead or side) * rng.uniform(0, 0.25 + stride))
        sole = _limb(ankle + [0, 0.02], ankle + [(ahead or side * 0.4) * 0.055, 0.025], 0.024, 0.017)
        parts += [
            _Part(sole, "shoe", shade),
            _Part(_limb(knee, ankle, 0.042 * breadth**0.5, 0.026), cloth[1], shade),
            _Part(_limb(joint, knee, 0.062 * breadth**0.5, 0.043 * breadth**0.5), cloth[0], shade),
        ]
    if dress == "skirt":
        waist = [_round(hip + np.array([side * 0.05 * breadth, -0.02]), 0.045) for side in SIDES]
        length, flare = rng.uniform(0.15, 0.36), rng.uniform(0.1, 0.17)
        parts.append(_Part(_hull(*waist, *(np.array([[side * flare, 0.5 + length]]) for side in SIDES)), "trousers"))
    return parts


def _hair(rng: np.random.Generator, head: np.ndarray, size: np.ndarray, facing: str) -> list[_Part]:
    """Long or short hair behind the head, then the cap of hair on it, then sometimes a hat."""
    length = rng.uniform(1.2, 2.6) if rng.random() < 0.4 else 0.6
    behind = _hull(_round(head, *(size * [1.12, 1.05])), head + size * [[-1.0, length], [1.0, length]])
    cap_shift = {"front": [0, -0.42], "back": [0, -0.02], "left": [0.35, -0.3], "right": [-0.35, -0.3]}[facing]
    cap_scale = [1.08, 1.08] if facing == "back" else [1.02, 0.72] if facing == "front" else [0.85, 0.85]
    parts = [_Part(behind, "hair", 0.8), _Part(_round(head + size * cap_shift, *(size * cap_scale)), "hair")]
    if rng.random() < 0.15:
        brim = _hull(head + size * [[-1.3, -0.35], [1.3, -0.35], [0.9, -0.75], [-0.9, -0.75]])
        parts += [_Part(_round(head - size * [0, 0.6], *(size * [0.95, 0.65])), "bag"), _Part(brim, "bag")]
    return parts


def draw_thing(rng: np.random.Generator, height: float, light: int = 0) -> Sprite:
    """Draw something that is not a person: a pole, sign, box, ball, tree or cone.

    Args:
        rng: where the randomness comes from.
        height: pixels, of a person who would stand in the same place.
        light: -1, 0 or 1, the side the light comes from.
    """
    wide, tall = rng.uniform(0.15, 0.4), rng.uniform(0.25, 0.7)
    foot, top = np.array([0.0, 1.0]), np.array([0.0, rng.uniform(-0.6, 0.2)])
    kind = rng.choice(["pole", "sign", "box", "ball", "tree", "cone"])
    if kind == "pole":
        parts = [_Part(_limb(top, foot, 0.025, 0.035), "shirt"), _Part(_round(top, rng.uniform(0.04, 0.09)), "bag")]
    elif kind == "sign":
        turn = rng.uniform(0, 2 * np.pi) + np.arange(rng.integers(3, 7)) * 1.26
        board = _hull(top + 0.2 * np.stack([np.cos(turn), np.sin(turn)], axis=1), _round(top, 0.06))
        parts = [_Part(_limb(top, foot, 0.018, 0.018), "bag", 0.7), _Part(board, "shirt")]
    elif kind == "box":
        front = np.array([[-wide, 1 - tall], [wide, 1 - tall], [wide, 1], [-wide, 1]])
        lid = np.array([[-wide, 1 - tall], [wide, 1 - tall], [wide + 0.1, 0.9 - tall], [0.1 - wide, 0.9 - tall]])
        parts = [_Part(_hull(front), "shirt", 0.85), _Part(_hull(lid), "shirt", 1.15)]
    elif kind == "ball":
        parts = [_Part(_round(np.array([0, 1 - wide]), wide), "shirt")]
    elif kind == "tree":
        parts = [_Part(_limb(top + [0, 0.2], foot, 0.03, 0.05), "bag", 0.6)]
        parts += [_Part(_round(top + rng.normal(0, 0.13, 2), rng.uniform(0.1, 0.25)), "leaf", s) for s in (0.8, 1, 1.1)]
    else:
        parts = [_Part(np.array([[-wide, 1], [wide, 1], [0, 1 - 2 * tall]], np.float32), "shirt")]
    leaf = np.array([40, 110, 70], np.float32) * np.float32(rng.uniform(0.5, 1.4))
    return _render(rng, parts, {"leaf": leaf}, height, light, [])


def _render(
    rng: np.random.Generator,
    parts: list[_Part],
    fabrics: dict[str, np.ndarray],
    height: float,
    light: int,
    head: list[np.ndarray],
) -> Sprite:
    """Paint the parts one over the other, outline the whole and cut it out."""
    points = np.concatenate([part.polygon for part in parts])
    scale, margin = height * SUPERSAMPLE, 2 * SUPERSAMPLE
    origin = points.min(axis=0) * scale - margin
    # An even size, so that averaging 2 x 2 pixels is exact.
    wide, tall = (int(n) + n % 2 for n in np.ceil(points.max(axis=0) * scale - origin + margin).astype(int))
    small = (wide // SUPERSAMPLE, tall // SUPERSAMPLE)
    used = {part.fabric for part in parts}
    for name in (n for n in ("shirt", "trousers", "bag") if n in used):
        # A pattern has no outline to smooth: the final size is enough.
        pattern = texture(rng, small[1], small[0], height)
        fabrics = fabrics | {name: cv2.resize(pattern, (wide, tall), interpolation=cv2.INTER_NEAREST)}
    colour, brightness = np.zeros((tall, wide, 3), np.float32), np.zeros((tall, wide), np.float32)
    canvas = _Canvas(colour, brightness, np.zeros((tall, wide), np.uint8))
    reach = max(3, int(scale * 0.05) | 1)
    for part in parts:
        _paint(canvas, part.polygon * scale - origin, fabrics[part.fabric], part.shade, reach, light)
    # A darker rim sets neighbours in similar clothes apart.
    brightness[cv2.erode(canvas.alpha, np.ones((3, 3), np.uint8), borderValue=0) == 0] *= 0.55
    colour = np.minimum(colour * brightness[..., None], 255)
    colour = cv2.resize(colour, small, interpolation=cv2.INTER_AREA)
    coverage = cv2.resize(canvas.alpha.astype(np.float32) / 255, small, interpolation=cv2.INTER_AREA)
    mask = coverage >= 0.5
    x1, y1, x2, y2 = tight_box(mask)
    box = np.zeros(4, int)
    if head:
        corners = (np.concatenate(head) * scale - origin) / SUPERSAMPLE - [x1, y1]
        box = np.concatenate([np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0))]).astype(int)
    inside = np.s_[y1:y2, x1:x2]
    return Sprite(colour[inside], coverage[inside], mask[inside], box.clip(0, [x2 - x1, y2 - y1] * 2))


def _paint(canvas: _Canvas, polygon: np.ndarray, fabric: np.ndarray, shade: float, reach: int, light: int) -> None:
    """Paint one convex part over what is there, darker towards its edge."""
    low = np.floor(polygon.min(axis=0)).astype(int) - 1
    high = np.ceil(polygon.max(axis=0)).astype(int) + 2
    window = np.s_[low[1] : high[1], low[0] : high[0]]
    part = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
    cv2.fillConvexPoly(part, np.round((polygon - low) * 8).astype(np.int32), 255, cv2.LINE_8, 3)
    anchor = (reach // 2 - light * (reach // 3), reach // 2)
    glow = cv2.boxFilter(part, cv2.CV_32F, (reach, reach), anchor=anchor, borderType=cv2.BORDER_CONSTANT)
    cv2.copyTo((0.5 / 255 * glow + 0.5) * np.float32(shade), part, canvas.light[window])
    cv2.copyTo(np.broadcast_to(fabric, (*canvas.alpha.shape, 3))[window].copy(), part, canvas.colour[window])
    cv2.copyTo(part, part, canvas.alpha[window])


def tight_box(mask: np.ndarray) -> np.ndarray:
    """Return the smallest box around the true pixels of (h,w) bool: (4,) int XYXY; zeros where none is true."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return np.zeros(4, int)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def paste(image: np.ndarray, sprite: Sprite, x: int, y: int, opacity: float = 1.0) -> None:
    """Lay a sprite over (h,w,3) float32 ``image``, in place; what sticks out is cut off.

    Args:
        image: changed.
        sprite: what to lay over.
        x: column of the sprite's left side; may be negative.
        y: row of its upper side; may be negative.
        opacity: 0 to 1.
    """
    (h, w), (tall, wide) = image.shape[:2], sprite.alpha.shape
    top, left = max(0, -y), max(0, -x)
    cut = np.s_[top : min(tall, h - y), left : min(wide, w - x)]
    alpha, colour = sprite.alpha[cut], sprite.colour[cut]
    if alpha.size:
        window = image[y + top : y + top + alpha.shape[0], x + left : x + left + alpha.shape[1]]
        window *= 1 - opacity * alpha[..., None]
        window += opacity * colour


def draw_backdrop(rng: np.random.Generator, size: tuple[int, int], horizon: int) -> np.ndarray:
    """Draw a ground and what stands far off: patterns, houses, lines that run to a vanishing point, blots.

    Args:
        rng: where the randomness comes from.
        size: (h, w).
        horizon: row where the ground begins.

    Returns:
        (h,w,3) float32, 0 to 255.
    """
    h, w = size
    image = np.concatenate([_noise_colour(rng, rows, w) for rows in (horizon, h - horizon) if rows > 0]).astype(
        np.uint8
    )
    for _ in range(rng.integers(0, 9) if horizon > h // 20 else 0):
        x, wide, tall = (
            rng.integers(-w // 10, w),
            rng.integers(w // 20, w // 4),
            rng.integers(horizon // 3, horizon + 1),
        )
        wall = texture(rng, tall, wide, h * rng.uniform(0.1, 0.6)).astype(np.uint8)
        wall = wall[:, max(0, -x) : w - x]
        image[horizon - tall : horizon, max(0, x) : max(0, x) + wall.shape[1]] = wall
    vanishing = (int(rng.integers(0, w)), horizon)
    for x in range(-2 * w, 3 * w, int(rng.integers(w // 12, w // 2))) if rng.random() < 0.6 else ():
        _line(rng, image, vanishing, (x, h))
    for y in horizon + np.geomspace(0.02, 1, 9) * (h - horizon) if rng.random() < 0.4 else ():
        _line(rng, image, (0, int(y)), (w, int(y)))
    for _ in range(rng.integers(2, 14)):
        start = rng.integers(0, (w, h))
        if rng.random() < 0.5:
            _line(rng, image, start, start + rng.normal(0, h * 0.25, 2).astype(int))
        else:
            axes = rng.integers(2, h // 12 + 3, 2).tolist()
            cv2.ellipse(
                image, start.tolist(), axes, int(rng.integers(180)), 0, 360, random_colour(rng).tolist(), -1, 16
            )
    return image.astype(np.float32)


def _noise_colour(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A gradient between two colours with coarse and fine noise, sometimes with a pattern."""
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    mixed = random_colour(rng) * (1 - down) + random_colour(rng) * down
    if rng.random() < 0.5:
        mixed = 0.5 * mixed + 0.5 * texture(rng, height, width, height * rng.uniform(0.3, 1.5))
    noise = 70 * _noise(rng, height, width, width / 8) + 40 * _noise(rng, height, width, 5) - 55
    return (mixed + noise[..., None]).clip(0, 255)


def _line(rng: np.random.Generator, image: np.ndarray, start: np.ndarray | tuple, end: np.ndarray | tuple) -> None:
    points = [tuple(int(n) for n in point) for point in (start, end)]
    cv2.line(image, *points, random_colour(rng).tolist(), int(rng.integers(1, 4)), cv2.LINE_AA)

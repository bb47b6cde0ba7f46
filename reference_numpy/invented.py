"""Invent alphabets: strokes that look like Omniglot's at a glance, for a machine without data and network.

A style says how an alphabet's strokes are: the anchor points that they share, straight or curved, how many to a
character. A character is a few strokes, some of which start or end on another one. A hand is what a drawer does alike in
all their drawings: slant, size, proportion, roundness, shakiness, pen. A drawing is a character by a hand, with noise of
its own. Characters are designed in a square of side 1 around 0 and drawn on 105x105 pixels, by NumPy alone.
"""

import numpy as np

N_DRAWERS = 20
N_INVENTED, BODY, N_POINTS = 50, 60, 100  # alphabets; pixels of a usual character; points along a stroke
HAND, DRAWING, STROKE = 0.08, 0.04, 0.09  # standard deviations: how a drawer's shapes differ, a drawing's, a stroke's
KNOT, SHIFT, ENDS = 0.09, 0.04, 0.12  # how far a knot is missed, a stroke slips, and its ends run over or fall short
NIB = np.array([(x, y) for x in range(-2, 3) for y in range(-2, 3) if abs(x * y) < 4])  # (21, 2) pixels: a round pen


def spline(n_knots):
    """Return two matrices (N_POINTS, n_knots) that turn knots into points of a polyline and of a Catmull-Rom curve."""
    place = np.linspace(0, n_knots - 1, N_POINTS)
    first = np.minimum(place.astype(int), n_knots - 2)
    f = (place - first)[:, None]
    unit = np.eye(n_knots)[np.clip(np.arange(-1, n_knots + 1), 0, n_knots - 1)]  # (n_knots + 2, n_knots): ends twice
    a, b, c, d = (unit[first + k] for k in range(4))  # of each point the four knots around it
    return b + f * (c - b), b + f * (c - a + f * (2 * a - 5 * b + 4 * c - d + f * (3 * b - a - 3 * c + d))) / 2


SPLINES = {n_knots: spline(n_knots) for n_knots in range(2, 10)}


def invent_style(rng):
    """Invent the habits of an alphabet: anchors (n, 2) that its strokes share, and how often it does what."""
    columns, rows = (np.linspace(-0.5, 0.5, rng.integers(2, 5)) for _ in range(2))
    anchors = np.stack(np.meshgrid(columns * rng.uniform(0.6, 1), rows), -1).reshape(-1, 2)
    shares = {"upright": (0, 0.9), "strokes": (0.4, 2), "attach": (0.5, 0.95), "kin": (0.1, 0.5), "round": (0, 0.4)}
    style = {name: rng.uniform(*limits) for name, limits in shares.items()}
    kinds = rng.dirichlet([1.8, 0.7, 0.8, 1.4, 0.5, 0.6, 0.15])  # of the kinds in invent_stroke
    return style | {"anchors": anchors + rng.normal(0, 0.07, anchors.shape), "kinds": kinds}


def invent_stroke(rng, style, strokes):
    """Invent a stroke that may start or end on earlier ones.

    Returns its knots (2..9, 2) and its roundness, 0 for the polyline through them, 1 for the curve.
    """
    kind = rng.choice(["line", "bent", "curve", "arc", "wave", "loop", "dot"], p=style["kinds"])
    points = rng.permutation(style["anchors"])[:4]
    for end in (0, 1):
        if strokes and rng.random() < style["attach"] / (1 + end):
            knots, _ = strokes[rng.integers(len(strokes))]
            points[end] = SPLINES[len(knots)][1][rng.choice([0, N_POINTS // 2, rng.integers(N_POINTS)])] @ knots
    start, chord = points[0], points[1] - points[0]
    if np.hypot(*chord) < 0.3:
        chord = np.array([1, -1]) * rng.permutation([0.1, 0.6])
    across = rng.choice([-1, 1]) * chord[::-1] * [1, -1]
    if kind == "line":
        upright = rng.random() < style["upright"]
        return np.stack([start, start + np.where(upright & (abs(chord) < abs(chord).max()), 0, chord)]), style["round"]
    if kind == "wave":
        t = np.arange(rng.integers(4, 7))[:, None]
        zigzag = t % 2 * across * rng.uniform(0.2, 0.5)
        return start + t / (len(t) - 1) * chord + zigzag, rng.choice([style["round"], 1.0])
    if kind == "arc":
        t = np.linspace(0, 1, 5)[:, None]
        return start + t * chord + np.sin(np.pi * t) * across * rng.uniform(0.3, 0.8), 1.0
    if kind in ("loop", "dot"):
        t = rng.uniform(0, 7) + np.linspace(0, rng.choice([-1, 1]) * 2 * np.pi, 9)[:, None]
        circle = np.hstack([np.cos(t) - np.cos(t[0]), np.sin(t) - np.sin(t[0])])
        return start + circle * (0.05 if kind == "dot" else rng.uniform(0.12, 0.35, 2)), 1.0
    return points[: rng.integers(3, 5)], style["round"] if kind == "bent" else 1.0


def invent_character(rng, style, earlier):
    """Invent a character's strokes: new ones, or those of an earlier character with one added or changed."""
    strokes, wanted = [], 1 + min(rng.poisson(style["strokes"]), 3)
    if earlier and rng.random() < style["kin"]:
        strokes = list(earlier[rng.integers(len(earlier))])
        if len(strokes) > 3 or len(strokes) > 1 and rng.random() < 0.7:
            strokes.pop(rng.integers(len(strokes)))
        wanted = len(strokes) + 1
    while len(strokes) < wanted or len(strokes) == 1 and len(strokes[0][0]) == 2:  # one straight line is no character
        strokes.append(invent_stroke(rng, style, strokes))
    every = np.concatenate([knots for knots, _ in strokes])
    low, high = every.min(0), every.max(0)
    size = rng.uniform(0.7, 1.1) / (high - low).max()
    return [((knots - (low + high) / 2) * size, roundness) for knots, roundness in strokes]


def invent_hands(rng):
    """Invent 20 drawers, by what each does alike in all drawings: slant, size, bend, roundness, shake, place and pen."""
    n = N_DRAWERS
    return {
        "map": np.eye(2) * np.exp(rng.normal(0, HAND, (n, 1, 1))) + rng.normal(0, HAND, (n, 2, 2)),
        "bend": rng.normal(0, HAND, (n, 3, 2)), "round": rng.uniform(0, 0.6, (n, 1, 1)),
        "shake": rng.uniform(0.01, 0.03, (n, 1, 1)), "place": rng.normal(50, 4, (n, 1, 2)),
        "pen": rng.uniform(0.75, 0.95, (n, 1, 1, 1)),
    }  # fmt: skip


def draw(rng, hands, strokes):
    """Draw one character by every hand: (20, 105, 105) uint8, 1 = ink."""
    curves, n = [], N_DRAWERS
    for knots, roundness in strokes:
        missed = KNOT * np.hypot(*np.diff(knots, axis=0).T).mean()
        drawn = knots + rng.normal(0, missed, (n, *knots.shape))  # (20, knots, 2)
        drawn[:, [0, -1]] += rng.normal(0, ENDS, (n, 2, 1)) * (knots[[0, -1]] - knots[[1, -2]])
        straight, curved = (matrix @ drawn for matrix in SPLINES[len(knots)])  # (20, N_POINTS, 2)
        path = straight + np.clip(roundness + hands["round"], 0, 1) * (curved - straight)
        path += SPLINES[7][1] @ rng.normal(0, 1, (n, 7, 2)) * hands["shake"] * np.ptp(knots)
        middle = path.mean(1, keepdims=True)
        path = (path - middle) @ (np.eye(2) + rng.normal(0, STROKE, (n, 2, 2)))
        curves.append(path + middle + rng.normal(0, SHIFT, (n, 1, 2)))
    points = np.concatenate(curves, 1)  # (20, points, 2)
    x, y = points[..., :1], points[..., 1:]
    points = points + np.concatenate([x * x, x * y, y * y], -1) @ (hands["bend"] + rng.normal(0, DRAWING, (n, 3, 2)))
    points = BODY * points @ (hands["map"] + rng.normal(0, DRAWING, (n, 2, 2)))
    points *= np.minimum(1, 97 / np.ptp(points, axis=1, keepdims=True).max(2, keepdims=True))  # no larger than the paper
    points += hands["place"] + rng.normal(0, 3, (n, 1, 2))
    points += np.maximum(0, 3 - points.min(1, keepdims=True)) - np.maximum(0, points.max(1, keepdims=True) - 101)
    dots = np.rint(points[:, :, None] + NIB * hands["pen"]).astype(int)  # (20, points, 21, 2)
    images = np.zeros((n, 105, 105), np.uint8)
    images[np.arange(n)[:, None, None], dots[..., 1], dots[..., 0]] = 1
    return images


def invent(seed, n_alphabets=N_INVENTED):
    """Invent alphabets of 14..40 characters, each character drawn by the alphabet's 20 drawers.

    Returns images (characters, 20, 105, 105) uint8, 1 = ink; alphabet (characters,) int64, the index of each character's
    alphabet; and the alphabets' names. The same seed gives the same alphabets; fewer are the first of more.
    """
    rng = np.random.default_rng(seed)
    images, alphabet, names = [], [], []
    while len(names) < n_alphabets:
        syllables = ["bdfghklmnprstvz", "aeiou"] * rng.integers(2, 4)
        name = "".join(rng.choice(list(letters)) for letters in syllables).capitalize()
        if name in names:
            continue
        style, hands, characters = invent_style(rng), invent_hands(rng), []
        for _ in range(rng.integers(14, 41)):
            characters.append(invent_character(rng, style, characters))
            images.append(draw(rng, hands, characters[-1]))
            alphabet.append(len(names))
        names.append(name)
    return np.stack(images), np.array(alphabet), tuple(names)

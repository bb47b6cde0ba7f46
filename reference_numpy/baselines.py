"""Baselines that learn nothing: pixel 1-NN and the modified Hausdorff distance (§4.3).

Both have a net's interface over NumPy arrays, so that whatever answers trials with a net answers them with these:

    features(images) -> h: (N, D)    images: (N, 1, H, W) in [0, 1], 1 = ink; whatever np.asarray understands
    logit(h1, h2) -> (N,)            the larger, the more alike; h1, h2: (N, D), the features of the two drawings

Of Lake's 400 trials the first answers 87 right (21.75 %), the second 245 (61.25 %; his demo's error is 38.75 %):
python -m reference_numpy baselines
"""

import numpy as np
from numba import prange

from . import data
from .jit import kernel

def baselines(data_dir=""):
    """Print how many of Lake's 400 trials both baselines answer right. Raises UserError when there are no trials."""
    trials = data.load_lake(data_dir)
    rows = [(scorer.name, accuracy(scorer, trials), 400) for scorer in (PixelNearestNeighbour(), ModifiedHausdorff())]
    data.print_trials("Lake's 400 one-shot trials, without a net", [*rows, ("chance (20-way)", 1 / 20, None)])

def accuracy(scorer, trials):
    """Return the fraction of trials that a baseline answers right."""
    answers = data.one_shot_answers(lambda images: scorer.features(images[:, None]), scorer.logit, trials)
    return float((answers == trials.answers).mean())

class PixelNearestNeighbour:
    """Compare two drawings by the cosine of their pixels: much ink at the same places."""

    size = 105
    name = "pixel 1-NN (cosine)"

    def features(self, images):
        """Return the pixels of each image as a vector of length one; those of a blank image are zeros."""
        pixels = np.asarray(images, np.float32).reshape(len(images), -1)  # (N, H * W)
        return pixels / np.maximum(np.sqrt((pixels * pixels).sum(1, keepdims=True)), 1e-12)

    def logit(self, h1, h2):
        """Return the cosine of each pair, (N,) float32 in 0..1."""
        return (np.asarray(h1) * np.asarray(h2)).sum(1)

class ModifiedHausdorff:
    """Compare two drawings by the modified Hausdorff distance of their ink (Dubuisson and Jain, 1994).

    As in Lake's demo every pixel of ink is a point, and the points are taken relative to their mean: a drawing that is
    moved stays the same. A blank image is infinitely far from every drawing, and equal to another blank one.
    """

    size = 105
    name = "modified Hausdorff distance"

    def features(self, images):
        """Return where each image has ink (0.5 or more), (N, H * W) bool. Raises ValueError unless H = W."""
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[1] != 1 or images.shape[2] != images.shape[3]:
            raise ValueError(f"images is (N, 1, size, size), not {images.shape}")
        return images.reshape(len(images), -1) >= 0.5

    def logit(self, h1, h2):
        """Return minus the distance of each pair in pixels, (N,) float64: 0 for equals."""
        h1, h2 = np.ascontiguousarray(h1, bool), np.ascontiguousarray(h2, bool)
        size = round(h1.shape[1] ** 0.5)
        return -modified_hausdorff(h1.reshape(-1, size, size), h2.reshape(-1, size, size))

@kernel(parallel=True)
def modified_hausdorff(ink1, ink2):
    """Return the distance of each pair, (N,) float64: of the two mean distances, there and back, the larger.

    ink1, ink2: (N, H, W) bool, True = ink
    """
    out = np.empty(len(ink1))
    for n in prange(len(ink1)):
        a, b = centred_points(ink1[n]), centred_points(ink2[n])
        out[n] = max(mean_distance(a, b), mean_distance(b, a))
    return out

@kernel
def centred_points(ink):
    """Return the rows and columns of the ink in (H, W) bool, less their means: (2, P) float64."""
    rows, columns = np.nonzero(ink)
    points, P = np.empty((2, len(rows))), max(len(rows), 1)
    points[0] = rows - rows.sum() / P
    points[1] = columns - columns.sum() / P
    return points

@kernel
def mean_distance(a, b):
    """Return how far it is from a point of a to the nearest point of b, in the mean over a. a: (2, P), b: (2, Q).

    From no points at all it is 0; to none it is infinite.
    """
    P, Q = a.shape[1], b.shape[1]
    nearest = np.full(P, np.inf)  # squared distances
    for j in range(Q):
        for i in range(P):  # the inner loop, so that it becomes vector instructions: 2 s for Lake's trials, else 10
            dy, dx = a[0, i] - b[0, j], a[1, i] - b[1, j]
            nearest[i] = min(nearest[i], dy * dy + dx * dx)
    total = 0.0
    for i in range(P):
        total += np.sqrt(nearest[i])
    return total / max(P, 1)

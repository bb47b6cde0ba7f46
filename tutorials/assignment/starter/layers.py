"""Tasks 1 to 4, 6 and 7: the layers of the twin net, forwards and backwards (§3.1, §3.2).

    name_forward(inputs ...)    -> out, cache       cache: whatever your backward pass needs
    name_backward(dout, cache)  -> the loss's gradients by the inputs, in their order

N images, C channels, H x W pixels, F filters, KH x KW taps, D features, in the order NCHW; dout has out's shape. All
arrays of a call have one dtype, float32 or float64, and so has what comes back. Change nothing in place, and keep
nothing from call to call: the two twins share their weights, so that every layer runs twice before it runs backwards.
NumPy alone. check(fits, *arrays) raises the ValueError that tests/test_layers.py wants for shapes that do not fit.
"""

import numpy as np  # noqa: F401

# What task 8 needs beside your layers, and tests/test_layers.py tests.
from given import (  # noqa: F401
    batchnorm_backward,
    batchnorm_forward,
    batchnorm_running,
    check,
    pad_backward,
    pad_forward,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
    unbroadcast,
)

# Task 1: a fully connected layer --------------------------------------------------------------------------------------


def linear_forward(x, w, b):
    """Return x @ w.T + b: (N, D), (M, D), (M,) -> (N, M)."""
    raise NotImplementedError("Task 1: each output is a weighted sum of the inputs, and a bias")


def linear_backward(dout, cache):
    """Return dx, dw, db."""
    raise NotImplementedError("Task 1: three products; check them with reference_numpy.gradcheck")


# Task 2: elementwise layers -------------------------------------------------------------------------------------------


def relu_forward(x):
    """Return max(x, 0), of any shape."""
    raise NotImplementedError("Task 2: nothing below 0 passes")


def relu_backward(dout, positive):
    """Return dx: dout where x was positive; the slope at 0 is taken as 0, as torch does."""
    raise NotImplementedError("Task 2: the slope is 0 or 1; which of them at 0?")


def sigmoid_forward(x):
    """Return 1 / (1 + e^-x), of any shape, without overflow."""
    raise NotImplementedError("Task 2: e^1000 overflows and e^-1000 does not; treat both signs apart")


def sigmoid_backward(dout, out):
    """Return dx: dout * out * (1 - out)."""
    raise NotImplementedError("Task 2: the slope can be written with out alone")


# Tasks 3 and 4: the convolution; leave rung alone, it chooses among the reference's four ------------------------------


def conv2d_forward(x, w, b=None, rung="blocked"):
    """Slide filters over images, stride 1, no padding.

    x: (N, C, H, W); w: (F, C, KH, KW), KH <= H and KW <= W; b: (F,) or None
    rung: which of the implementations in convolution.py computes
    Returns out (N, F, H - KH + 1, W - KW + 1) and the cache.
    """
    raise NotImplementedError("Task 3: begin with loops over n, f, y, z and a sum over c, i, j")


def conv2d_backward(dout, cache):
    """Return dx, dw and db (None if there was no b)."""
    raise NotImplementedError("Task 4: each output gives a share to every pixel and every tap that made it")


# Task 6: pooling ------------------------------------------------------------------------------------------------------


def maxpool2x2_forward(x):
    """Keep the largest of each 2x2 pixels: (N, C, H, W) -> (N, C, H // 2, W // 2); an odd last line is lost."""
    raise NotImplementedError("Task 6: remember which of the four it was")


def maxpool2x2_backward(dout, cache):
    """Return dx: dout goes to the first maximum of its 2x2 pixels in row-major order, as torch does.

    Ties are everywhere in binary drawings: to all maxima, or to the last, would be another net.
    """
    raise NotImplementedError("Task 6: to the first maximum alone; drawings are full of ties")


# Task 7: the join and the loss ----------------------------------------------------------------------------------------


def l1_join_forward(h1, h2, alpha, bias):
    """Return the logit that two images are of one character: sum_j alpha_j |h1_j - h2_j| + bias (§3.1).

    h1, h2: (..., D), leading axes broadcast; alpha: (1, D); bias: (1,)
    Returns logits (...,) and the cache. p = sigmoid(logit).
    """
    raise NotImplementedError("Task 7: the weighted sum of |h1 - h2|, and the bias")


def l1_join_backward(dout, cache):
    """Return dh1, dh2, dalpha, dbias. The slope of |.| at 0 is taken as 0, as torch does."""
    raise NotImplementedError("Task 7: what moves h1 up moves the difference up, and h2 down; unbroadcast is given")


def bce_with_logits_forward(logits, same):
    """Return the mean cross-entropy of single pairs, in nats (§3.2).

    logits: (N,); same: (N,) 1 or True for a pair of one character, 0 or False else
    From logits, because a float32 sigmoid is exactly 1 from 16.7 on, and its logarithm's slope is lost.
    """
    raise NotImplementedError("Task 7: from logits, without the sigmoid's logarithm")


def bce_with_logits_backward(dout, slope):
    """Return dlogits; dout is a number."""
    raise NotImplementedError("Task 7: p - same, a share of the mean, times dout")

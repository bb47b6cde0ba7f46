"""The layers of the twin net, forwards and backwards (§3.1, §3.2), as pure functions.

    name_forward(inputs ...)    -> out, cache       cache: what the backward pass needs, and nobody else looks into
    name_backward(dout, cache)  -> the loss's gradients by the inputs, in their order

N images, C channels, H x W pixels, F filters, KH x KW taps, D features, in the order NCHW; dout has out's shape. All
arrays of a call have one dtype, float32 or float64, and so has what comes back. Nothing is changed in place, and
nothing is kept from call to call: the two twins share their weights, so that every layer runs twice before it runs
backwards, and a layer that remembered its last input would give the first twin a wrong gradient.
Wrong shapes and dtypes raise a ValueError that names them (relu, pool and pad do not compare dout's dtype with x's).
"""

import numpy as np
from numba import prange

from .convolution import RUNGS
from .jit import kernel
from .products import product

def check(fits, *arrays, like=None):
    """Raise a ValueError that names all shapes and dtypes unless fits, and unless arrays share one float dtype.

    like: an array of any dtype that is named too
    """
    arrays = [array for array in arrays if array is not None]
    dtypes = {array.dtype for array in arrays}
    if not fits or len(dtypes) > 1 or not dtypes <= {np.dtype("float32"), np.dtype("float64")}:
        named = arrays if like is None else [*arrays, like]
        found = " and ".join(f"{array.shape} {array.dtype}" for array in named)
        raise ValueError(f"shapes or dtypes do not fit together: {found}")

# Convolution and pooling (§3.1) ---------------------------------------------------------------------------------------

def conv2d_forward(x, w, b=None, rung="blocked"):
    """Slide filters over images, stride 1, no padding.

    x: (N, C, H, W); w: (F, C, KH, KW), KH <= H and KW <= W; b: (F,) or None
    rung: which of the implementations in convolution.py computes
    Returns out (N, F, H - KH + 1, W - KW + 1) and the cache.
    """
    fits = x.ndim == w.ndim == 4 and x.shape[1] == w.shape[1] and x.shape[2] >= w.shape[2] and x.shape[3] >= w.shape[3]
    check(fits and (b is None or b.shape == w.shape[:1]) and x.size and w.size, x, w, b)
    x, w = np.ascontiguousarray(x), np.ascontiguousarray(w)
    out = RUNGS[rung][0](x, w)
    if b is not None:
        out += b[:, None, None]
    return out, (x, w, b is not None, rung)

def conv2d_backward(dout, cache):
    """Return dx, dw and db (None if there was no b)."""
    x, w, has_bias, rung = cache
    (N, C, H, W), (F, _, KH, KW) = x.shape, w.shape
    check(dout.shape == (N, F, H - KH + 1, W - KW + 1), dout, x, w)
    dout = np.ascontiguousarray(dout)
    _, dx, dw = RUNGS[rung]
    db = dout.sum((0, 2, 3)) if has_bias else None
    return dx(dout, w), dw(dout, x), db

def pad_forward(x, margin=1):
    """Put a margin of zeros around images: (N, C, H, W) -> (N, C, H + 2 * margin, W + 2 * margin)."""
    check(x.ndim == 4, x)
    N, C, H, W = x.shape
    out = np.zeros((N, C, H + 2 * margin, W + 2 * margin), x.dtype)
    out[:, :, margin : H + margin, margin : W + margin] = x
    return out, margin

def pad_backward(dout, margin):
    """Return dx: dout without the margin."""
    check(dout.ndim == 4 and min(dout.shape[2:]) > 2 * margin, dout)
    H, W = dout.shape[2:]
    return dout[:, :, margin : H - margin, margin : W - margin].copy()

def maxpool2x2_forward(x):
    """Keep the largest of each 2x2 pixels: (N, C, H, W) -> (N, C, H // 2, W // 2); an odd last line is lost."""
    check(x.ndim == 4 and x.shape[2] >= 2 and x.shape[3] >= 2, x)
    out, first = largest(np.ascontiguousarray(x))
    return out, (x.shape, first)

def maxpool2x2_backward(dout, cache):
    """Return dx: dout goes to the first maximum of its 2x2 pixels in row-major order, as torch does.

    Ties are everywhere in binary drawings: to all maxima, or to the last, would be another net.
    """
    shape, first = cache
    check(dout.shape == first.shape, dout, like=first)
    return to_largest(np.ascontiguousarray(dout), first, shape)

@kernel(parallel=True)
def largest(x):
    """Return the largest of each 2x2 pixels, and which it was: 0, 1 in the upper row, 2, 3 in the lower."""
    (N, C, H, W) = x.shape
    out, first = np.empty((N, C, H // 2, W // 2), x.dtype), np.empty((N, C, H // 2, W // 2), np.uint8)
    for plane in prange(N * C):
        n, c = plane // C, plane % C
        for y in range(H // 2):
            for z in range(W // 2):
                best, where = x[n, c, 2 * y, 2 * z], 0
                for k in range(1, 4):
                    value = x[n, c, 2 * y + k // 2, 2 * z + k % 2]
                    if value > best or value != value:  # a NaN is not lost
                        best, where = value, k
                out[n, c, y, z], first[n, c, y, z] = best, where
    return out, first

@kernel(parallel=True)
def to_largest(dout, first, shape):
    """Return zeros with dout at the pixels that were the largest."""
    dx = np.zeros(shape, dout.dtype)
    for plane in prange(shape[0] * shape[1]):
        n, c = plane // shape[1], plane % shape[1]
        for y in range(dout.shape[2]):
            slopes, which, upper, lower = dout[n, c, y], first[n, c, y], dx[n, c, 2 * y], dx[n, c, 2 * y + 1]
            for z in range(dout.shape[3]):
                row = upper if which[z] < 2 else lower
                row[2 * z + np.intp(which[z]) % 2] = slopes[z]
    return dx

# Elementwise and fully connected layers (§3.1) ------------------------------------------------------------------------

def relu_forward(x):
    """Return max(x, 0), of any shape."""
    check(True, x)
    return np.maximum(x, 0), x > 0

def relu_backward(dout, positive):
    """Return dx: dout where x was positive; the slope at 0 is taken as 0, as torch does."""
    check(dout.shape == positive.shape, dout, like=positive)
    return dout * positive

def sigmoid_forward(x):
    """Return 1 / (1 + e^-x), of any shape, without overflow."""
    check(True, x)
    e = np.exp(-np.abs(x))  # in 0..1
    out = np.where(x >= 0, 1 / (1 + e), e / (1 + e))
    return out, out.copy()

def sigmoid_backward(dout, out):
    """Return dx: dout * out * (1 - out)."""
    check(dout.shape == out.shape, dout, out)
    return dout * out * (1 - out)

def linear_forward(x, w, b):
    """Return x @ w.T + b: (N, D), (M, D), (M,) -> (N, M)."""
    check(x.ndim == w.ndim == 2 and x.shape[1] == w.shape[1] and b.shape == w.shape[:1], x, w, b)
    return product(x, w.T) + b, (x, w)

def linear_backward(dout, cache):
    """Return dx, dw, db."""
    x, w = cache
    check(dout.shape == (len(x), len(w)), dout, x, w)
    return product(dout, w), product(dout.T, x), dout.sum(0)

def batchnorm_forward(x, scale, shift, running_mean, running_var, training=True, momentum=0.1, epsilon=1e-5):
    """Give each channel mean 0 and variance 1, then scale and shift it.

    x: (N, C, H, W) or (N, C); scale, shift, running_mean, running_var: (C,)
    training: take mean and variance from x (more than one value a channel), else the running ones
    Returns out of x's shape and the cache; batchnorm_running(cache) has the new running statistics.
    """
    per_channel = (scale, shift, running_mean, running_var)
    check(x.ndim in (2, 4) and all(array.shape == x.shape[1:2] for array in per_channel), x, *per_channel)
    planes = np.ascontiguousarray(x).reshape(*x.shape[:2], -1)  # (N, C, H * W)
    n = x.size // x.shape[1]
    if training and n < 2:
        raise ValueError(f"{x.shape} has one value a channel; batch normalisation in training needs two or more")
    mean, var = moments(planes) if training else (running_mean, running_var)
    if training:  # as in torch: the variance that runs along is the unbiased one, that of the batch is not
        running_mean = (1 - momentum) * running_mean + momentum * mean
        running_var = (1 - momentum) * running_var + momentum * (n / (n - 1)) * var
    inverse = 1 / np.sqrt(var + epsilon)  # (C,)
    out, normal = normalise(planes, mean, inverse, scale, shift)
    cache = normal.reshape(x.shape), scale, inverse, training, running_mean.copy(), running_var.copy()
    return out.reshape(x.shape), cache

def batchnorm_running(cache):
    """Return the running mean and variance (C,) that a forward pass leaves; without training those it was given."""
    return cache[-2], cache[-1]

def batchnorm_backward(dout, cache):
    """Return dx, dscale, dshift."""
    normal, scale, inverse, training, *_ = cache
    check(dout.shape == normal.shape, dout, normal)
    planes, normal = (np.ascontiguousarray(array).reshape(*array.shape[:2], -1) for array in (dout, normal))
    dx, dscale, dshift = denormalise(planes, normal, scale * inverse, training)
    return dx.reshape(dout.shape), dscale, dshift

@kernel(parallel=True)
def moments(planes):
    """Return each channel's mean and variance, (C,) both; planes: (N, C, pixels). Compiled, sums are in float64."""
    N, C, P = planes.shape
    mean, var = np.empty(C, planes.dtype), np.empty(C, planes.dtype)
    for c in prange(C):
        total = 0.0
        for n in range(N):
            for p in range(P):
                total += planes[n, c, p]
        centre, total = total / (N * P), 0.0
        for n in range(N):
            for p in range(P):
                total += (planes[n, c, p] - centre) ** 2
        mean[c], var[c] = centre, total / (N * P)
    return mean, var

@kernel(parallel=True)
def normalise(planes, mean, inverse, scale, shift):
    """Return scale * normal + shift and normal = (planes - mean) * inverse, (N, C, pixels) both."""
    N, C, P = planes.shape
    out, normal = np.empty_like(planes), np.empty_like(planes)
    for plane in prange(N * C):
        n, c = plane // C, plane % C
        source, target, kept = planes[n, c], out[n, c], normal[n, c]
        for p in range(P):
            kept[p] = (source[p] - mean[c]) * inverse[c]
            target[p] = scale[c] * kept[p] + shift[c]
    return out, normal

@kernel(parallel=True)
def denormalise(dout, normal, slope, training):
    """Return dx (N, C, pixels), dscale (C,) and dshift (C,); slope: (C,) scale / standard deviation."""
    N, C, P = dout.shape
    dx, dscale, dshift = np.empty_like(dout), np.empty(C, dout.dtype), np.empty(C, dout.dtype)
    for c in prange(C):
        total, weighted = 0.0, 0.0
        for n in range(N):
            for p in range(P):
                total += dout[n, c, p]
                weighted += dout[n, c, p] * normal[n, c, p]
        dshift[c], dscale[c] = total, weighted
        # In training every x moves the mean and the variance of its channel, and through them every output.
        by_mean, by_deviation = (total / (N * P), weighted / (N * P)) if training else (0.0, 0.0)
        for n in range(N):
            for p in range(P):
                dx[n, c, p] = slope[c] * (dout[n, c, p] - by_mean - normal[n, c, p] * by_deviation)
    return dx, dscale, dshift

# The join and the losses (§3.1, §3.2) ---------------------------------------------------------------------------------

def l1_join_forward(h1, h2, alpha, bias):
    """Return the logit that two images are of one character: sum_j alpha_j |h1_j - h2_j| + bias (§3.1).

    h1, h2: (..., D), leading axes broadcast; alpha: (1, D); bias: (1,)
    Returns logits (...,) and the cache. p = sigmoid(logit).
    """
    check(alpha.shape == (1, h1.shape[-1]) and h2.shape[-1] == h1.shape[-1] and bias.shape == (1,), h1, h2, alpha, bias)
    difference = h1 - h2
    return np.einsum("...d,d->...", np.abs(difference), alpha[0]) + bias[0], (difference, alpha, h1.shape, h2.shape)

def l1_join_backward(dout, cache):
    """Return dh1, dh2, dalpha, dbias. The slope of |.| at 0 is taken as 0, as torch does."""
    difference, alpha, shape1, shape2 = cache
    check(dout.shape == difference.shape[:-1], dout, difference)
    dalpha = np.einsum("n,nd->d", dout.reshape(-1), np.abs(difference).reshape(dout.size, -1))
    dh = np.sign(difference) * alpha[0] * dout[..., None]
    return unbroadcast(dh, shape1), unbroadcast(-dh, shape2), dalpha[None], dout.sum().reshape(1)

def unbroadcast(gradient, shape):
    """Sum a gradient over the axes along which its array of this shape was repeated."""
    gradient = gradient.sum(tuple(range(gradient.ndim - len(shape))))
    repeated = tuple(i for i, n in enumerate(shape) if n == 1)
    return gradient.sum(repeated, keepdims=True)

def bce_with_logits_forward(logits, same):
    """Return the mean cross-entropy of single pairs, in nats (§3.2).

    logits: (N,); same: (N,) 1 or True for a pair of one character, 0 or False else
    From logits, because a float32 sigmoid is exactly 1 from 16.7 on, and its logarithm's slope is lost.
    """
    same = np.asarray(same).astype(logits.dtype)
    check(logits.shape == same.shape and logits.size, logits, same)
    losses = np.maximum(logits, 0) - logits * same + np.log1p(np.exp(-np.abs(logits)))
    return losses.mean(), (sigmoid_forward(logits)[0] - same) / logits.dtype.type(logits.size)

def bce_with_logits_backward(dout, slope):
    """Return dlogits; dout is a number."""
    return np.asarray(dout, slope.dtype) * slope

def softmax_cross_entropy_forward(logits, same):
    """Return the mean cross-entropy of each same pair against all different pairs of its first drawing, in nats.

    The loss of koch.py's default recipe: -log(e^logit / (e^logit + sum of e^different)).
    logits: (A, n, n) of every ordered pair of A alphabets' n drawings; same: (A, n, n), 1 or True for one character
    A drawing with itself counts neither way. Raises ValueError without a same pair of two drawings.
    """
    same = np.asarray(same, bool)
    check(logits.ndim == 3 and logits.shape == same.shape, logits, like=same)
    counted = same & ~np.eye(logits.shape[1], dtype=bool)  # (A, n, n)
    n_pairs = logits.dtype.type(counted.sum())
    if not n_pairs:
        raise ValueError(f"no same pair of two drawings in {same.shape}")
    masked = np.where(same, -np.inf, logits)
    largest = np.maximum(masked.max(2, keepdims=True), np.finfo(logits.dtype).min)  # -inf if all are the same
    e = np.exp(masked - largest)  # (A, n, n), in 0..1
    total = e.sum(2, keepdims=True)
    with np.errstate(divide="ignore"):
        different = largest + np.log(total)  # (A, n, 1): log of the sum over the different pairs
    margin = different - logits
    losses = np.maximum(margin, 0) + np.log1p(np.exp(-np.abs(margin)))  # log(1 + e^margin)
    wrong = np.where(counted, sigmoid_forward(margin)[0], 0) / n_pairs  # the loss's slope by margin
    shares = e / np.where(total > 0, total, 1)  # of each different pair in the sum
    return losses[counted].sum() / n_pairs, wrong.sum(2, keepdims=True) * shares - wrong

def softmax_cross_entropy_backward(dout, slope):
    """Return dlogits; dout is a number."""
    return np.asarray(dout, slope.dtype) * slope

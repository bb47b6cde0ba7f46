"""Planted mistakes in reference_numpy, and how they are put before the tests, which must reject each of them.

    python tests/mutants.py [--quick] [--sample 40] [--seed 1] [WORD ...]    those whose sentences hold the words

--quick: before the quick tests alone, so that nothing is compiled. A mistake is a piece of text that stands exactly
once in one file, and what is put in its place. Exit status 0 if all were rejected.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import traceback
import types
from pathlib import Path
from typing import NamedTuple

import pytest

TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "reference_numpy"
TESTS_OF = {  # file: the tests that its mistakes are put before; "koch" is koch.py, all else is in reference_numpy
    "convolution": ["test_convolution.py"],
    "products": ["test_convolution.py"],
    "jit": ["test_convolution.py"],
    "layers": ["test_layers.py"],
    "network": ["test_network.py"],
    "learning": ["test_network.py"],
    "gradcheck": ["test_gradcheck.py"],
    "data": ["test_reference.py"],
    "pairs": ["test_reference.py"],
    "koch": [f"test_{name}.py" for name in ("model", "learning", "paper_recipe", "verification", "oneshot", "data")],
}
CHOSEN = {  # (file, how): tests, where not all are wanted
    ("convolution", "race"): "rung and numba and float64",
    ("jit", "race"): "machine_code",
    ("network", "kept"): "parameters_have or every_gradient",
}


class Mutant(NamedTuple):
    """Hold a mistake. how: "plain", Numba compiles nothing; "kept", it takes the machine code that it kept of the files
    that have no mistake; "race", it compiles all anew and uses two threads. The last two are no quick tests' matter."""

    file: str
    mistake: str
    old: str
    new: str
    how: str = "plain"


MUTANTS = [
    # convolution.py, rungs 1 to 3
    Mutant("convolution", "loops: the filter is flipped",
           "total += float(x[n, c, y + i, z + j]) * float(w[f, c, i, j])",
           "total += float(x[n, c, y + i, z + j]) * float(w[f, c, KH - 1 - i, KW - 1 - j])"),
    Mutant("convolution", "loops: dx is flipped",
           "dx[n, c, y + i, z + j] += float(dout[n, f, y, z]) * float(w[f, c, i, j])",
           "dx[n, c, y + i, z + j] += float(dout[n, f, y, z]) * float(w[f, c, KH - 1 - i, KW - 1 - j])"),
    Mutant("convolution", "loops: dw of the last output alone",
           "dw[f, c, i, j] += float(dout[n, f, y, z]) * float(x[n, c, y + i, z + j])",
           "dw[f, c, i, j] = float(dout[n, f, y, z]) * float(x[n, c, y + i, z + j])"),
    Mutant("convolution", "taps: a window one row too low",
           'out += np.einsum("ncyz,fc->nfyz", x[:, :, i : i + OH, j : j + OW], w[:, :, i, j])',
           'out += np.einsum("ncyz,fc->nfyz", x[:, :, KH - 1 - i : KH - 1 - i + OH, j : j + OW], w[:, :, i, j])'),
    Mutant("convolution", "taps: dw's taps transposed where the filter is square",
           'dw[:, :, i, j] = np.einsum("nfyz,ncyz->fc", dout, x[:, :, i : i + OH, j : j + OW])',
           'dw[:, :, i, j] = np.einsum("nfyz,ncyz->fc", dout, x[:, :, min(j, H - OH) : min(j, H - OH) + OH, '
           'min(i, W - OW) : min(i, W - OW) + OW])'),
    Mutant("convolution", "numba: dx loses the last row of outputs",
           "for i in range(max(0, y - OH + 1), min(KH, y + 1)):",
           "for i in range(max(0, y - OH + 2), min(KH, y + 1)):"),
    Mutant("convolution", "numba: dx is cropped by one column",
           "for j in range(max(0, z - OW + 1), min(KW, z + 1)):", "for j in range(max(0, z - OW + 1), min(KW, z)):"),
    Mutant("convolution", "numba: dw leaves out the last image",
           "                    for n in range(N):\n                        for y in range(OH):",
           "                    for n in range(max(1, N - 1)):\n                        for y in range(OH):"),
    Mutant("convolution", "numba: dw's sum kept in float32",
           "                    dw[f, c, i, j] = total\n    return dw",
           "                    dw[f, c, i, j] = np.float32(total)\n    return dw"),
    Mutant("convolution", "numba: threads share one dw, and each image adds to it",
           """    for f in prange(F):
        for c in range(C):
            for i in range(dw.shape[2]):
                for j in range(dw.shape[3]):
                    total = 0.0
                    for n in range(N):
                        for y in range(OH):
                            for z in range(OW):
                                total += dout[n, f, y, z] * x[n, c, y + i, z + j]
                    dw[f, c, i, j] = total
    return dw""",
           """    dw[:] = 0
    for n in prange(N):
        for y in range(OH):
            for z in range(OW):
                for f in range(F):
                    for c in range(C):
                        for i in range(dw.shape[2]):
                            for j in range(dw.shape[3]):
                                dw[f, c, i, j] += dout[n, f, y, z] * x[n, c, y + i, z + j]
    return dw""", "race"),
    Mutant("convolution", "numba: threads share an image's dx, and each filter adds to it",
           """    for plane in prange(N * C):
        n, c = plane // C, plane % C
        for y in range(dx.shape[2]):
            for z in range(dx.shape[3]):
                total = 0.0
                for f in range(F):
                    for i in range(max(0, y - OH + 1), min(KH, y + 1)):  # the taps that pixel (y, z) lay under
                        for j in range(max(0, z - OW + 1), min(KW, z + 1)):
                            total += dout[n, f, y - i, z - j] * w[f, c, i, j]
                dx[n, c, y, z] = total
    return dx""",
           """    dx[:] = 0
    for f in prange(F):
        for n in range(N):
            for c in range(C):
                for y in range(OH):
                    for z in range(OW):
                        for i in range(KH):
                            for j in range(KW):
                                dx[n, c, y + i, z + j] += dout[n, f, y, z] * w[f, c, i, j]
    return dx""", "race"),
    # convolution.py, the blocks
    Mutant("convolution", "blocks: taps i and j change places",
           "c, i, j = k // (KH * KW) - k0 // (KH * KW), k // KW % KH, k % KW",
           "c, j, i = k // (KH * KW) - k0 // (KH * KW), k // KW % KH, k % KW"),
    Mutant("convolution", "blocks: overlapping rows begin one number too late",
           "rows[k - k0] = (c * KW + j) * S + i * line", "rows[k - k0] = (c * KW + j) * S + i * (line + 1)"),
    Mutant("convolution", "blocks: an owner's first channel is taken for channel 0",
           "c, i, j = k // (KH * KW) - k0 // (KH * KW),", "c, i, j = k // (KH * KW) - 0 * k0,"),
    Mutant("convolution", "blocks: gather copies from one column on",
           "source, target = x[n, c, y, j : j + OW], buffer[r, p : p + OW]",
           "source, target = x[n, c, y, max(j - 1, 0) : max(j - 1, 0) + OW], buffer[r, p : p + OW]"),
    Mutant("convolution", "blocks: scatter overwrites", "target[z] += source[z]", "target[z] = source[z]"),
    Mutant("convolution", "blocks: scatter one column off",
           "source, target = buffer[r, p : p + OW], x[n, c, y, j : j + OW]",
           "source, target = buffer[r, p : p + OW], x[n, c, y, KW - 1 - j : KW - 1 - j + OW]"),
    Mutant("convolution", "blocks: forward drops the last tile",
           "for item in prange(-(-N // images) * tiles):", "for item in prange(max(1, -(-N // images) * tiles - 1)):"),
    Mutant("convolution", "blocks: the last tile's rows are lost where they do not come out even",
           "tiles = -(-OH // rows)  # of one image", "tiles = OH // rows  # of one image"),
    Mutant("convolution", "blocks: dx drops the last images",
           "    for item in prange(-(-N // images)):\n", "    for item in prange(max(1, N // images)):\n"),
    Mutant("convolution", "blocks: forward's block is not zeroed",
           "        block[:] = 0\n        for c0 in range(0, C, n_channels):",
           "        for c0 in range(0, C, n_channels):"),
    Mutant("convolution", "blocks: forward starts anew at each part of the channels",
           "            gather(buffer, x, (n0, n1, y0, y1 + KH - 1, OW), c0, c1, KW)\n            filters",
           "            gather(buffer, x, (n0, n1, y0, y1 + KH - 1, OW), c0, c1, KW)\n            block[:] = "
           "0\n            filters"),
    Mutant("convolution", "blocks: dx's buffer is not zeroed", "                buffer[:] = 0\n", ""),
    Mutant("convolution", "blocks: dx skips the last part of the channels",
           "            for c0 in range(0, C, n_channels):\n                c1 = min(C, c0 + n_channels)",
           "            for c0 in range(0, max(1, C - n_channels), n_channels):\n                c1 = min(C, c0 + "
           "n_channels)"),
    Mutant("convolution", "blocks: dw's tail is not zeroed",
           "left[item * F4 : (item + 1) * F4] = 0  # what is beyond a tile counts nothing", "pass"),
    Mutant("convolution", "blocks: dw's buffer's tail is not zeroed",
           "buffer[:, line * (y1 - y0 + KH - 1) :] = 0", "pass"),
    Mutant("convolution", "blocks: dw's last owner is dropped",
           "for item in prange(-(-K // owned)):", "for item in prange(max(1, K // owned)):"),
    Mutant("convolution", "blocks: dw of the first tile of images alone",
           "for tile in range(len(left) // F4):", "for tile in range(tiles):"),
    Mutant("convolution", "blocks: dw leaves out an owner's last channel",
           "c0, c1 = k0 // (KH * KW), (k1 - 1) // (KH * KW) + 1",
           "c0, c1 = k0 // (KH * KW), max(k0 // (KH * KW) + 1, (k1 - 1) // (KH * KW))"),
    Mutant("convolution", "blocks: forward's sums in float32",
           "block, buffer = aligned(F, L, x), aligned(n_channels * KW, S, x)",
           "block, buffer = aligned(F, L, np.zeros(1, np.float32)), aligned(n_channels * KW, S, x)"),
    Mutant("convolution", "a NumPy product inside a kernel, which needs SciPy",
           "    return dw.reshape(F, C, KH, KW)", "    return dw.reshape(F, C, KH, KW) + 0 * np.dot(dw, dw.T)[0, 0]"),
    # products.py
    Mutant("products", "the last rows are dropped",
           "    for row in range(M - M % 4, M):\n", "    for row in range(M, M):\n"),
    Mutant("products", "the last terms are added to the first row of four",
           "add_row(out[out_rows[row] :][:L], a[row, k], b[b_rows[k] :])\n    for",
           "add_row(out[out_rows[m] :][:L], a[row, k], b[b_rows[k] :])\n    for"),
    Mutant("products", "add_row overwrites", "out[p] += factor * row[p]", "out[p] = factor * row[p]"),
    Mutant("products", "add_dots transposes each four by four", "out[m + i // 4, k + i % 4] += total",
           "out[m + i % 4, k + i // 4] += total"),
    Mutant("products", "the last block of rows is dropped",
           "for item in prange(-(-M // ROWS) * across):", "for item in prange(max(1, M // ROWS) * across):"),
    Mutant("products", "the last terms beyond a block are dropped",
           "for k0 in range(0, K, DEPTH):", "for k0 in range(0, max(1, K - DEPTH), DEPTH):"),
    Mutant("products", "the block is not zeroed", "        block[:] = 0\n", ""),
    Mutant("jit", "no machine code kept is an error",
           "    except RuntimeError:", "    except ZeroDivisionError:", "race"),
    Mutant("jit", "options are lost where no machine code is kept",
           "return numba.njit(**options)(function)", "return numba.njit()(function)", "plain"),
    # layers.py: convolution, margin, pool
    Mutant("layers", "the bias is left out", "        out += b[:, None, None]\n", "        pass\n"),
    Mutant("layers", "the convolution's buffer is kept from call to call",
           "    out = RUNGS[rung][0](x, w)\n",
           "    new = RUNGS[rung][0](x, w)\n    out = RUNGS.setdefault(('kept', new.shape, new.dtype), new)\n    "
           "out[...] = new\n"),
    Mutant("layers", "the convolution remembers its last input",
           "    x, w, has_bias, rung = cache\n",
           "    x, w, has_bias, rung = RUNGS.setdefault(('last', cache[0].shape), cache)\n"),
    Mutant("layers", "dw before dx", "return dx(dout, w), dw(dout, x), db", "return dw(dout, x), dx(dout, w), db"),
    Mutant("layers", "a kernel wider than the image is let through", " and x.shape[3] >= w.shape[3]\n", "\n"),
    Mutant("layers", "a margin on the left and the top alone",
           "out = np.zeros((N, C, H + 2 * margin, W + 2 * margin), x.dtype)",
           "out = np.zeros((N, C, H + margin, W + margin), x.dtype)"),
    Mutant("layers", "the margin is a view of dout",
           "return dout[:, :, margin : H - margin, margin : W - margin].copy()",
           "return dout[:, :, margin : H - margin, margin : W - margin]"),
    Mutant("layers", "the last of equal maxima",
           "if value > best or value != value:", "if value >= best or value != value:"),
    Mutant("layers", "a NaN is lost in the pool", "if value > best or value != value:", "if value > best:"),
    Mutant("layers", "the pool's gradient to all that are equal",
           "                row[2 * z + np.intp(which[z]) % 2] = slopes[z]",
           "                upper[2 * z : 2 * z + 2] = lower[2 * z : 2 * z + 2] = slopes[z]"),
    Mutant("layers", "the pool keeps an odd row",
           "    out, first = largest(np.ascontiguousarray(x))\n",
           "    if x.shape[2] % 2:\n        x = np.concatenate([x, x[:, :, -1:]], 2)\n"
           "    out, first = largest(np.ascontiguousarray(x))\n"),
    # layers.py: elementwise and fully connected
    Mutant("layers", "relu'(0) = 1", "return np.maximum(x, 0), x > 0", "return np.maximum(x, 0), x >= 0"),
    Mutant("layers", "relu works in place", "return np.maximum(x, 0), x > 0", "return np.maximum(x, 0, out=x), x > 0"),
    Mutant("layers", "relu lets NaN be 0",
           "return np.maximum(x, 0), x > 0", "return np.where(x > 0, x, 0 * x.dtype.type(0)), x > 0"),
    Mutant("layers", "a sigmoid that overflows", "out = np.where(x >= 0, 1 / (1 + e), e / (1 + e))",
           "out = 1 / (1 + np.exp(-x)) + 0 * e"),
    Mutant("layers", "the sigmoid's gradient from its input", "return out, out.copy()", "return out, x.copy()"),
    Mutant("layers", "the sigmoid's out is its cache", "return out, out.copy()", "return out, out"),
    Mutant("layers", "linear without bias",
           "return product(x, w.T) + b, (x, w)", "return product(x, w.T) + 0 * b, (x, w)"),
    Mutant("layers", "linear's bias may have one number",
           "x.shape[1] == w.shape[1] and b.shape == w.shape[:1], x, w, b)\n    return product",
           "x.shape[1] == w.shape[1] and b.size, x, w, b)\n    return product"),
    # layers.py: batch normalisation
    Mutant("layers", "batchnorm: the running variance is biased", "momentum * (n / (n - 1)) * var", "momentum * var"),
    Mutant("layers", "batchnorm: the running statistics stay",
           "cache = normal.reshape(x.shape), scale, inverse, training, running_mean.copy(), running_var.copy()",
           "cache = normal.reshape(x.shape), scale, inverse, training, 0 * running_mean, 0 * running_var + 1"),
    Mutant("layers", "batchnorm: momentum the other way round",
           "running_mean = (1 - momentum) * running_mean + momentum * mean",
           "running_mean = momentum * running_mean + (1 - momentum) * mean"),
    Mutant("layers", "batchnorm: the batch's statistics in inference",
           "mean, var = moments(planes) if training else (running_mean, running_var)", "mean, var = moments(planes)"),
    Mutant("layers", "batchnorm: the running statistics in training",
           "mean, var = moments(planes) if training else (running_mean, running_var)",
           "mean, var = running_mean, running_var"),
    Mutant("layers", "batchnorm: epsilon after the root", "inverse = 1 / np.sqrt(var + epsilon)  # (C,)",
           "inverse = 1 / (np.sqrt(var) + x.dtype.type(epsilon))"),
    Mutant("layers", "batchnorm: no mean term in the gradient",
           "(dout[n, c, p] - by_mean - normal[n, c, p] * by_deviation)",
           "(dout[n, c, p] - normal[n, c, p] * by_deviation)"),
    Mutant("layers", "batchnorm: the gradient of training in inference", " if training else (0.0, 0.0)\n", "\n"),
    Mutant("layers", "batchnorm: the running statistics change in place",
           "        running_mean = (1 - momentum) * running_mean + momentum * mean\n",
           "        if running_mean.flags.writeable:\n            running_mean *= 1 - momentum\n            "
           "running_mean += momentum * mean\n"),
    Mutant("layers", "batchnorm: one value a channel divides by zero",
           "    if training and n < 2:\n", "    if training and n < 1:\n"),
    # layers.py: the join
    Mutant("layers", "join: |.|'(0) = 1",
           "dh = np.sign(difference) * alpha[0]", "dh = np.where(difference >= 0, 1, -1) * alpha[0]"),
    Mutant("layers", "join: the gradient with |.| in place of the sign",
           "dh = np.sign(difference) * alpha[0]", "dh = np.abs(difference) * alpha[0]"),
    Mutant("layers", "join: dh2 with dh1's sign", "unbroadcast(-dh, shape2)", "unbroadcast(dh, shape2)"),
    Mutant("layers", "join: alpha's gradient without |.|",
           'np.einsum("n,nd->d", dout.reshape(-1), np.abs(difference).reshape(dout.size, -1))',
           'np.einsum("n,nd->d", dout.reshape(-1), difference.reshape(dout.size, -1))'),
    Mutant("layers", "join: without bias", "alpha[0]) + bias[0], (difference,", "alpha[0]), (difference,"),
    # layers.py: losses
    Mutant("layers", "bce: summed",
           "return losses.mean(), (sigmoid_forward(logits)[0] - same) / logits.dtype.type(logits.size)",
           "return losses.sum(), sigmoid_forward(logits)[0] - same"),
    Mutant("layers", "bce: the gradient is not averaged",
           "(sigmoid_forward(logits)[0] - same) / logits.dtype.type(logits.size)", "sigmoid_forward(logits)[0] - same"),
    Mutant("layers", "bce: the logarithm of a sigmoid",
           "    losses = np.maximum(logits, 0) - logits * same + np.log1p(np.exp(-np.abs(logits)))\n",
           "    p = sigmoid_forward(logits)[0]\n    losses = -(same * np.log(p + logits.dtype.type(1e-12)) + (1 - "
           "same) * np.log(1 - p + logits.dtype.type(1e-12)))\n"),
    Mutant("layers", "bce: log(1 + e), which is 0 for small e", "- logits * same + np.log1p(np.exp(-np.abs(logits)))",
           "- logits * same + np.log(1 + np.exp(-np.abs(logits)))"),
    Mutant("layers", "bce: the loss's weight is ignored",
           '    """Return dlogits; dout is a number."""\n    return np.asarray(dout, slope.dtype) * slope\n\ndef '
           "softmax",
           '    """Return dlogits; dout is a number."""\n    return slope.copy()\n\ndef softmax'),
    Mutant("layers", "softmax: a drawing with itself is a pair",
           "counted = same & ~np.eye(logits.shape[1], dtype=bool)  # (A, n, n)", "counted = same"),
    Mutant("layers", "softmax: all pairs in the sum",
           "masked = np.where(same, -np.inf, logits)", "masked = logits + 0"),
    Mutant("layers", "softmax: not averaged",
           "return losses[counted].sum() / n_pairs,", "return losses[counted].sum(),"),
    Mutant("layers", "softmax: the second drawing's different pairs",
           "total = e.sum(2, keepdims=True)", "total = e.sum(1, keepdims=True)"),
    Mutant("layers", "softmax: it overflows", "e = np.exp(masked - largest)  # (A, n, n), in 0..1",
           "largest = largest * 0\n    e = np.exp(masked - largest)"),
    Mutant("layers", "wrong shapes and dtypes are not named",
           'raise ValueError(f"shapes or dtypes do not fit together: {found}")',
           'raise ValueError("shapes or dtypes do not fit together")'),
    Mutant("layers", "mixed dtypes are let through", "if not fits or len(dtypes) > 1 or not", "if not fits or not"),
    # network.py
    Mutant("network", "the gradient of the second twin is left out", "first[name] += second[name]  #", "pass  #"),
    Mutant("network", "the twins' caches change places", "twin1, twin2, join = cache", "twin2, twin1, join = cache"),
    Mutant("network", "the second twin is the first",
           "h2, twin2 = features_forward(after, x2, training)", "h2, twin2 = features_forward(after, x1, training)"),
    Mutant("network", "the twin is not told of training",
           "features_forward(parameters, x1, training)\n", "features_forward(parameters, x1)\n"),
    Mutant("network", "the second twin's running statistics begin where the first's did",
           "h2, twin2 = features_forward(after, x2, training)",
           "h2, twin2 = features_forward(parameters, x2, training)"),
    Mutant("network", "inference changes the running statistics of the second twin",
           "after = running_statistics(parameters, twin1) if training else parameters",
           "after = running_statistics(parameters, twin1) if training else {n: p + 1 if n.endswith('running_mean') "
           "else p for n, p in parameters.items()}"),
    Mutant("network", "batch normalisation is always in training", "*statistics, training)", "*statistics, True)"),
    Mutant("network", "the minibatches are not counted",
           'parameters[f"{name}.num_batches_tracked"] + 1', 'parameters[f"{name}.num_batches_tracked"] + 0'),
    Mutant("network", "the new statistics go into the old parameters",
           "    new = dict(parameters)\n", "    new = parameters\n"),
    Mutant("network", "the last layer is passed by on the way back",
           "in reversed(caches):", "in reversed(caches[:-1]):"),
    Mutant("network", "the margin's gradient stays in",
           "            if margin:\n", "            if margin and dx.shape[1] == 64:\n"),
    Mutant("network", "an unused rung of convolutions drawn",
           "channels, n_in = shape[0], np.prod(shape[1:])", "channels, n_in = shape[0], np.prod(shape[2:])"),
    Mutant("network", "the join's first weights have the wrong sign",
           "np.full((1, channels), -4 / channels)", "np.full((1, channels), 4 / channels)"),
    Mutant("network", "Xavier's initialisation in place of He's",
           "rng.normal(0, np.sqrt(2 / n_in), shape)", "rng.normal(0, np.sqrt(1 / n_in), shape)", "kept"),
    Mutant("network", "the pool comes after the batch normalisation",
           '"conv2d maxpool2x2 batchnorm relu "  # (32, 32, 32)',
           '"conv2d batchnorm maxpool2x2 relu "  # (32, 32, 32)', "kept"),
    Mutant("network", "the paper's net without its last relu",
           '"conv2d relu "  # (256, 6, 6)', '"conv2d sigmoid "  # (256, 6, 6)', "kept"),
    # learning.py
    Mutant("learning", "sgd: momentum with the wrong sign",
           "= of_layer(momentum, name) * velocity", "= -of_layer(momentum, name) * velocity"),
    Mutant("learning", "sgd: the velocity without its learning rate",
           "        moved[name] = of_layer(momentum, name) * velocity.get(name, 0.0) - of_layer(learning_rate, name) "
           "* gradient\n        new[name] = w + moved[name]",
           "        moved[name] = of_layer(momentum, name) * velocity.get(name, 0.0) - gradient\n        new[name] = "
           "w + of_layer(learning_rate, name) * moved[name]"),
    Mutant("learning", "sgd: the penalty without the 2",
           "gradient = gradient + 2 * of_layer(l2, name) * w", "gradient = gradient + of_layer(l2, name) * w"),
    Mutant("learning", "sgd: the penalty as the paper prints it",
           "gradient = gradient + 2 * of_layer(l2, name) * w", "gradient = gradient + 2 * of_layer(l2, name) * abs(w)"),
    Mutant("learning", "sgd: the penalty is ignored", "        if decays(name, w):\n", "        if False:\n"),
    Mutant("learning", "sgd: biases decay", 'return name.endswith("weight") and w.ndim > 1', "return True"),
    Mutant("learning", "every layer has the first layer's setting",
           'number = setting[name.rpartition(".")[0]] if', "return next(iter(setting.values())) if"),
    Mutant("learning", "a layer that is missing has the setting 0",
           'number = setting[name.rpartition(".")[0]] if', 'return setting.get(name.rpartition(".")[0], 0.0) if'),
    Mutant("learning", "sgd: parameters change in place",
           "        new[name] = w + moved[name]", "        w += moved[name]\n        new[name] = w"),
    Mutant("learning", "the momentum begins at 0",
           "return 0.5 + (momentum - 0.5) * min(1.0, epoch / n_epochs)",
           "return momentum * min(1.0, epoch / n_epochs)"),
    Mutant("learning", "the momentum goes on rising", "min(1.0, epoch / n_epochs)", "epoch / n_epochs"),
    Mutant("learning", "the learning rate rises from 0",
           "min(1.0, (step + 1) / max(1, warmup))", "min(1.0, step / max(1, warmup))"),
    Mutant("learning", "the cosine ends half-way",
           "math.cos(math.pi * step / n_steps)", "math.cos(math.pi / 2 * step / n_steps)"),
    Mutant("learning", "muon: without the look ahead",
           "update = (1 - momentum) * gradient + momentum * moved[name]", "update = moved[name]"),
    Mutant("learning", "muon: the gradient is not divided by its norm",
           "x = matrix / (np.sqrt((matrix * matrix).sum()) + 1e-7)", "x = matrix / 10"),
    Mutant("learning", "muon: tall matrices are transposed and stay so",
           "return x if matrix.shape[0] <= matrix.shape[1] else x.T", "return x.reshape(matrix.shape)"),
    Mutant("learning", "muon: five iterations", "for _ in range(3):", "for _ in range(5):"),
    Mutant("learning", "muon: the velocity is forgotten",
           "moved[name] = momentum * velocity.get(name, 0.0) + (1 - momentum) * gradient",
           "moved[name] = (1 - momentum) * gradient"),
    Mutant("learning", "adamw: the mean's start is not corrected",
           "step = mean / (1 - beta1**steps) /", "step = mean /"),
    Mutant("learning", "adamw: epsilon in the root",
           "(np.sqrt(square / (1 - beta2**steps)) + epsilon)", "np.sqrt(square / (1 - beta2**steps) + epsilon)"),
    Mutant("learning", "adamw: the steps are not counted", "        steps += 1\n", "        steps = 1\n"),
    # gradcheck.py
    Mutant("gradcheck", "a gradient that is missing passes",
           '    if gradient is None or np.shape(gradient) != shape:\n        return float("inf")\n',
           "    if gradient is None:\n        return 0.0\n"),
    Mutant("gradcheck", "any of the arguments is enough", "Verdict(tuple(errors), all(", "Verdict(tuple(errors), any("),
    Mutant("gradcheck", "dout is ones", "dout = rng.standard_normal(np.shape(out))", "dout = np.ones(np.shape(out))"),
    Mutant("gradcheck", "one entry is enough",
           "rng.permutation(argument.size)[:n_entries]", "rng.permutation(argument.size)[:1]"),
    # data.py and pairs.py
    Mutant("data", "the right answer is never the last", "answers.append(rng.integers(n_way))",
           "answers.append(rng.integers(n_way - 1))"),
    Mutant("data", "alphabets with just as many characters as ways are left out",
           "pools = [pool for pool in pools if len(pool) >= n_way]",
           "pools = [pool for pool in pools if len(pool) > n_way]"),
    Mutant("pairs", "the rate's fall compounds over the epochs",
           "eta = learning.paper_learning_rate(epoch, learning_rate)",
           "eta = learning_rate = learning.paper_learning_rate(epoch, learning_rate)"),
    Mutant("pairs", "a step of pairs is one in evaluation mode",
           "network.siamese_forward(parameters, x1, x2, training=True)",
           "network.siamese_forward(parameters, x1, x2)"),
]  # fmt: skip


def source(file):
    """Return the path of the file that a mistake is planted in."""
    return TESTS.parent / "koch.py" if file == "koch" else PACKAGE / f"{file}.py"


def patched(mutant):
    """Return the text of the mutant's file with its mistake. Raises ValueError unless the old text is there once."""
    text = source(mutant.file).read_text(encoding="utf-8")
    if mutant.old and text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.file}.py has {text.count(mutant.old)} times: {mutant.old}")
    return text.replace(mutant.old, mutant.new) if mutant.old else text


def control(file, how="plain"):
    """Return a mutant without a mistake."""
    return Mutant(file, "no mistake", "", "", how)


CONTROLS = [control(file) for file in ("convolution", "layers", "network", "gradcheck")]  # the rest run the same
CONTROLS += [control("convolution", "race"), control("jit", "race"), control("network", "kept")]


def try_one(mutant):
    """Put a mutant in its file's place and run its tests. Return pytest's exit status and what failed."""
    import numba

    numba.config.DISABLE_JIT = mutant.how == "plain"
    os.environ["NUMBA_DISABLE_JIT"] = str(int(mutant.how == "plain"))
    files = ["threads.py"] if (mutant.file, mutant.how) == ("convolution", "race") else TESTS_OF[mutant.file]
    with tempfile.TemporaryDirectory() as folder:
        plant(mutant, Path(folder))
        options = ["-x", "-q", "-p", "no:cacheprovider"]
        if mutant.how == "plain":
            options += ["-m", "not compiled and not thorough"]
            options += ["-k", "not compiled_loops"]  # which a process without the mistake would compile
        if (mutant.file, mutant.how) in CHOSEN:
            options += ["-k", CHOSEN[mutant.file, mutant.how]]
        noting = Noting(word_for(mutant) if mutant.old else "")
        status = pytest.main([*options, *(str(TESTS / name) for name in files)], plugins=[noting])
    return int(status), noting.failure


def plant(mutant, folder):
    """Import the mutant in its file's place; folder: an empty one that stays until the tests have run."""
    text = patched(mutant)
    if mutant.file == "koch":
        module = sys.modules["koch"] = types.ModuleType("koch")
        module.__file__ = str(source("koch"))
        exec(compile(text, module.__file__, "exec"), vars(module))
    elif mutant.how == "kept":  # the files with kernels are those whose machine code was kept
        import importlib.util

        sys.path.insert(0, str(TESTS.parent))
        import reference_numpy

        path, name = folder / f"{mutant.file}.py", f"reference_numpy.{mutant.file}"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        setattr(reference_numpy, mutant.file, module)
    else:
        copy = folder / "reference_numpy"
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / f"{mutant.file}.py").write_text(text)
        sys.path.insert(0, str(folder))
        from reference_numpy import convolution, gradcheck, jit, layers, learning, network, products  # noqa: F401

        assert Path(layers.__file__).parent == copy


WORDS = {  # of the tests for a function whose name they do not have
    "largest": "maxpool2x2", "to_largest": "maxpool2x2", "moments": "batchnorm", "normalise": "batchnorm",
    "denormalise": "batchnorm", "unbroadcast": "l1_join", "check": "that_names",
    "tiling": "blocked", "gather": "blocked", "scatter": "blocked", "tap_rows": "blocked",
    "kernel": "kernel", "add_product": "product", "add_row": "product",
    "of_layer": "settings", "decays": "penalty", "paper_learning_rate": "papers", "paper_momentum": "papers",
    "warmup_cosine": "factor", "one_shot_trials": "trial", "pair_step": "pairs", "train_on_pairs": "pairs",
    "gradcheck": "gradient", "relative_error": "gradient",
}  # fmt: skip


def word_for(mutant):
    """Return what stands in the names of the tests that will find the mistake soonest."""
    text = source(mutant.file).read_text(encoding="utf-8")
    function = text[: text.find(mutant.old) + len(mutant.old)].rpartition("\ndef ")[2].partition("(")[0]
    if mutant.file == "network":
        return "tiny"
    name = function.removesuffix("_forward").removesuffix("_backward")
    return WORDS.get(name, name.rpartition("_")[2] if mutant.file == "convolution" else name)


class Noting:
    """Take the likeliest tests first; note which failed, in which phase, and with what kind of error."""

    failure = None

    def __init__(self, word):
        self.word = word

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        items.sort(key=lambda item: self.word not in item.name)

    def pytest_runtest_makereport(self, item, call):
        if call.excinfo and not self.failure and call.excinfo.typename != "Skipped":
            self.failure = {"test": item.name, "when": call.when, "error": call.excinfo.typename}


def in_a_child(mutant, result, log):
    """Fork; the child tries the mutant and writes what came of it to the file result. Return the child's id."""
    child = os.fork()
    if child:
        return child
    try:
        log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1), os.dup2(log, 2)
        status, failure = try_one(mutant)
    except BaseException:
        status, failure = -1, {"error": traceback.format_exc()}
    Path(result).write_text(json.dumps({"status": status, "failure": failure}))
    sys.stdout.flush()
    os._exit(0)


def outcomes(mutants, logs):
    """Try mutants, each in a fork of this process, which has imported what takes long and computed nothing.

    Yields (mutant, {"status": pytest's exit status or a negative number, "failure": what failed first}), two at a time.
    """
    import numba  # noqa: F401
    import PIL.Image  # noqa: F401
    import torch  # noqa: F401  # and not koch, which would import the package without a mistake

    waiting, running = list(enumerate(mutants)), {}
    while waiting or running:
        while waiting and len(running) < 2:
            i, mutant = waiting.pop(0)
            result = Path(logs, f"{i}.json")
            running[in_a_child(mutant, result, f"{logs}/{i}.log")] = mutant, result
        child, _ = os.wait()
        mutant, result = running.pop(child)
        yield mutant, json.loads(result.read_text()) if result.exists() else {"status": -2, "failure": None}


BROKEN = ("NameError", "SyntaxError", "ImportError", "UnboundLocalError")  # a mistake that is none of the kind meant


def as_it_should(mutant, outcome):
    """Say whether the tests rejected a mistake, in a test's call, or let a control pass."""
    if not mutant.old:
        return outcome["status"] == 0
    failure = outcome["failure"] or {"when": "", "error": ""}
    return outcome["status"] == 1 and failure["when"] == "call" and failure["error"] not in BROKEN


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--quick", action="store_true", help="before the quick tests alone")
    parser.add_argument("--sample", type=int, default=len(MUTANTS), help="how many are tried, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if all(word in f"{mutant.file} {mutant.mistake}" for word in options.words)]
    chosen = random.Random(options.seed).sample(chosen, min(options.sample, len(chosen))) + CONTROLS
    if options.quick:
        chosen = [mutant._replace(how="plain") for mutant in chosen if mutant.old or mutant.how == "plain"]
    failed = n_rejected = 0
    with tempfile.TemporaryDirectory() as logs:
        for mutant, outcome in outcomes(chosen, logs):
            good = as_it_should(mutant, outcome)
            n_rejected += bool(mutant.old) and good
            if not good:
                failed += 1
                print(f"{mutant.file}, {mutant.how}: {mutant.mistake}: {outcome}", flush=True)
    print(f"{n_rejected} of {sum(bool(mutant.old) for mutant in chosen)} planted mistakes were rejected")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())

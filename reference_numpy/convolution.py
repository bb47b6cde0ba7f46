"""The convolution four times over, each time faster: a ladder from the printed formula to what the net uses (§3.1).

Every rung has the same three functions. Each is tested against the rung below, the fourth also against torch.

    forward(x, w)  -> out: (N, F, OH, OW)   out[n, f, y, z] = sum over c, i, j of x[n, c, y + i, z + j] w[f, c, i, j]
    dx(dout, w)    -> dx:  (N, C, H, W)     the loss's gradient by x
    dw(dout, x)    -> dw:  (F, C, KH, KW)   the loss's gradient by w

    x: (N, C, H, W) images; w: (F, C, KH, KW) filters; dout: (N, F, OH, OW) the loss's gradient by out
    Stride 1, "valid": OH = H - KH + 1 and OW = W - KW + 1. float32 or float64, C-contiguous, all of one dtype.

As everywhere in deep learning the filter is not flipped: what is called a convolution is a cross-correlation. Nothing
is checked here; layers.conv2d_forward does that.
"""

import numpy as np
from numba import prange

from .jit import kernel
from .products import add_dots, add_product, aligned, vectors

# Rung 1: plain Python, as the formula stands --------------------------------------------------------------------------

def forward_loops(x, w):
    """Each output is a sum over the channels and the taps of a filter."""
    (N, C, H, W), (F, _, KH, KW) = x.shape, w.shape
    out = np.empty((N, F, H - KH + 1, W - KW + 1), x.dtype)
    for n, f, y, z in np.ndindex(out.shape):
        total = 0.0
        for c in range(C):
            for i in range(KH):
                for j in range(KW):
                    total += float(x[n, c, y + i, z + j]) * float(w[f, c, i, j])
        out[n, f, y, z] = total
    return out

def dx_loops(dout, w):
    """Each output gives every pixel under its filter a share: what the filter has at that tap, times dout."""
    (N, F, OH, OW), (_, C, KH, KW) = dout.shape, w.shape
    dx = np.zeros((N, C, OH + KH - 1, OW + KW - 1))
    for n, f, y, z in np.ndindex(dout.shape):
        for c in range(C):
            for i in range(KH):
                for j in range(KW):
                    dx[n, c, y + i, z + j] += float(dout[n, f, y, z]) * float(w[f, c, i, j])
    return dx.astype(dout.dtype)

def dw_loops(dout, x):
    """Each output gives every tap of its filter a share: the pixel under that tap, times dout."""
    (N, F, OH, OW), (_, C, H, W) = dout.shape, x.shape
    dw = np.zeros((F, C, H - OH + 1, W - OW + 1))
    for n, f, y, z in np.ndindex(dout.shape):
        for c, i, j in np.ndindex(dw.shape[1:]):
            dw[f, c, i, j] += float(dout[n, f, y, z]) * float(x[n, c, y + i, z + j])
    return dw.astype(dout.dtype)

# Rung 2: NumPy, one array operation for each tap of the filter --------------------------------------------------------

def forward_taps(x, w):
    """For one tap, all outputs at once: a window of x, its channels mixed by the filters."""
    (N, C, H, W), (F, _, KH, KW) = x.shape, w.shape
    OH, OW = H - KH + 1, W - KW + 1
    out = np.zeros((N, F, OH, OW), x.dtype)
    for i, j in np.ndindex(KH, KW):
        out += np.einsum("ncyz,fc->nfyz", x[:, :, i : i + OH, j : j + OW], w[:, :, i, j])
    return out

def dx_taps(dout, w):
    """For one tap, all shares at once, added to the window that the tap saw."""
    (N, F, OH, OW), (_, C, KH, KW) = dout.shape, w.shape
    dx = np.zeros((N, C, OH + KH - 1, OW + KW - 1), dout.dtype)
    for i, j in np.ndindex(KH, KW):
        dx[:, :, i : i + OH, j : j + OW] += np.einsum("nfyz,fc->ncyz", dout, w[:, :, i, j])
    return dx

def dw_taps(dout, x):
    """For one tap, the product of dout with the window that the tap saw, summed over images and places."""
    (N, F, OH, OW), (_, C, H, W) = dout.shape, x.shape
    dw = np.zeros((F, C, H - OH + 1, W - OW + 1), dout.dtype)
    for i, j in np.ndindex(dw.shape[2:]):
        dw[:, :, i, j] = np.einsum("nfyz,ncyz->fc", dout, x[:, :, i : i + OH, j : j + OW])
    return dw

# Rung 3: the loops of rung 1, compiled, on all cores ------------------------------------------------------------------
# Whatever runs in parallel owns what it writes, so that no two threads meet and the result is the same for any number
# of threads: an output plane in forward, an image's channel in dx, a filter in dw. Compiled, sums are kept in float64.

@kernel(parallel=True)
def forward_numba(x, w):
    """One owner for each output plane (n, f)."""
    (N, C, H, W), (F, _, KH, KW) = x.shape, w.shape
    out = np.empty((N, F, H - KH + 1, W - KW + 1), x.dtype)
    for plane in prange(N * F):
        n, f = plane // F, plane % F
        for y in range(out.shape[2]):
            for z in range(out.shape[3]):
                total = 0.0
                for c in range(C):
                    for i in range(KH):
                        for j in range(KW):
                            total += x[n, c, y + i, z + j] * w[f, c, i, j]
                out[n, f, y, z] = total
    return out

@kernel(parallel=True)
def dx_numba(dout, w):
    """One owner for each channel of an image (n, c): it gathers its pixels' shares, instead of handing them out."""
    (N, F, OH, OW), (_, C, KH, KW) = dout.shape, w.shape
    dx = np.empty((N, C, OH + KH - 1, OW + KW - 1), dout.dtype)
    for plane in prange(N * C):
        n, c = plane // C, plane % C
        for y in range(dx.shape[2]):
            for z in range(dx.shape[3]):
                total = 0.0
                for f in range(F):
                    for i in range(max(0, y - OH + 1), min(KH, y + 1)):  # the taps that pixel (y, z) lay under
                        for j in range(max(0, z - OW + 1), min(KW, z + 1)):
                            total += dout[n, f, y - i, z - j] * w[f, c, i, j]
                dx[n, c, y, z] = total
    return dx

@kernel(parallel=True)
def dw_numba(dout, x):
    """One owner for each filter f: the sum over images stays inside it."""
    (N, F, OH, OW), (_, C, H, W) = dout.shape, x.shape
    dw = np.empty((F, C, H - OH + 1, W - OW + 1), dout.dtype)
    for f in prange(F):
        for c in range(C):
            for i in range(dw.shape[2]):
                for j in range(dw.shape[3]):
                    total = 0.0
                    for n in range(N):
                        for y in range(OH):
                            for z in range(OW):
                                total += dout[n, f, y, z] * x[n, c, y + i, z + j]
                    dw[f, c, i, j] = total
    return dw

# Rung 4: blocks that stay in the cache, the one that the net uses -----------------------------------------------------
# The outputs are a product of two matrices: w (F, taps) @ columns (taps, outputs), where a column holds the pixels
# under the filter. The teaching code of many courses copies all columns of a minibatch (im2col), 49 times the images
# for a 7x7 filter, and its time goes into moving them. Here
# - a tile of outputs is worked on at a time, and what it reads is used up while it is in the cache;
# - only the shifts along a row are copied. Tap (c, i, j) of all the tile's outputs is the row (c, j) of a buffer that
#   holds x[c, y, z + j] for the tile's rows and KH - 1 more, from its line i on: rows may overlap, as add_product's do.
# Forwards and backwards, ms, float32, 32 images, 2 cores (python -m reference_numpy compare; numba is rung 3):
#                                       numba    im2col   torch   this one
#   64x18x18,     64 filters 3x3          933        28       8         20
#   1x105x105,    64 filters 10x10      4,047       384     494        268
#   64x48x48,    128 filters 7x7            -     2,152     671      1,048
#   128x21x21,   128 filters 4x4        7,780       198      91        184
#   128x9x9,     256 filters 4x4        1,528        26      23         41

TILE, DW_TILE = 384, 1024  # outputs in a tile, about
SHIFTS, DW_TAPS = 8192, 64  # numbers in a buffer, four channels at least: 32 KB, a level-1 cache; taps of an owner

@kernel
def tiling(N, OH, OW, outputs):
    """Return how many images and rows a tile has: several whole images, or some rows of one; so many outputs, about."""
    images = max(1, min(N, outputs // (OH * OW)))
    rows = OH if OH * OW <= outputs else max(1, outputs // OW)
    return -(-N // -(-N // images)), -(-OH // -(-OH // rows))  # shared out evenly: no small tile at the end

@kernel
def gather(buffer, x, tile, c0, c1, KW):
    """Copy x[n, c, y, j : j + OW] into row (c, j) of buffer, in the order (y, n), for channels c0 .. c1 and KW shifts.

    tile: images n0 .. n1, lines y0 .. y1, OW
    """
    n0, n1, y0, y1, OW = tile
    for r in range((c1 - c0) * KW):
        c, j, p = c0 + r // KW, r % KW, 0
        for y in range(y0, y1):
            for n in range(n0, n1):
                source, target = x[n, c, y, j : j + OW], buffer[r, p : p + OW]
                for z in range(OW):
                    target[z] = source[z]
                p += OW

@kernel
def scatter(x, buffer, tile, c0, c1, KW):
    """Add a buffer to the pixels that gather copies into it."""
    n0, n1, y0, y1, OW = tile
    for r in range((c1 - c0) * KW):
        c, j, p = c0 + r // KW, r % KW, 0
        for y in range(y0, y1):
            for n in range(n0, n1):
                source, target = buffer[r, p : p + OW], x[n, c, y, j : j + OW]
                for z in range(OW):
                    target[z] += source[z]
                p += OW

@kernel
def tap_rows(k0, k1, KH, KW, line, S):
    """Return where the rows of taps k0 .. k1 begin in a buffer with rows of S numbers, and lines of so many.

    A tap k counts (c, i, j) in row-major order; the buffer's first channel is that of tap k0.
    Returns int64, as many as k1 - k0 rounded up to fours, for add_dots; beyond the last tap 0.
    """
    rows = np.zeros(-(-(k1 - k0) // 4) * 4, np.int64)
    for k in range(k0, k1):
        c, i, j = k // (KH * KW) - k0 // (KH * KW), k // KW % KH, k % KW
        rows[k - k0] = (c * KW + j) * S + i * line
    return rows

@kernel(parallel=True)
def forward_blocked(x, w):
    """One owner for each tile of outputs."""
    (N, C, H, W), (F, _, KH, KW) = x.shape, w.shape
    OH, OW, taps = H - KH + 1, W - KW + 1, KH * KW
    out = np.zeros((N, F, OH, OW), x.dtype)
    images, rows = tiling(N, OH, OW, TILE)
    tiles = -(-OH // rows)  # of one image
    for item in prange(-(-N // images) * tiles):
        n0, y0 = item // tiles * images, item % tiles * rows
        n1, y1 = min(N, n0 + images), min(OH, y0 + rows)
        line = (n1 - n0) * OW
        L = vectors(line * (y1 - y0))
        S = L + vectors(line * (KH - 1))
        n_channels = min(C, max(4, SHIFTS // (S * KW) // 4 * 4))
        block, buffer = aligned(F, L, x), aligned(n_channels * KW, S, x)
        block[:] = 0
        for c0 in range(0, C, n_channels):
            c1 = min(C, c0 + n_channels)
            gather(buffer, x, (n0, n1, y0, y1 + KH - 1, OW), c0, c1, KW)
            filters = w.reshape(F, C * taps)[:, c0 * taps : c1 * taps]
            buffer_rows = tap_rows(c0 * taps, c1 * taps, KH, KW, line, S)
            add_product(block.reshape(-1), np.arange(F) * L, filters, buffer.reshape(-1), buffer_rows, L)
        scatter(out, block, (n0, n1, y0, y1, OW), 0, F, 1)
    return out

@kernel(parallel=True)
def dx_blocked(dout, w):
    """One owner for each tile's images: the buffer's gradient is w.T @ dout, and goes back where x came from."""
    (N, F, OH, OW), (_, C, KH, KW) = dout.shape, w.shape
    dx = np.zeros((N, C, OH + KH - 1, OW + KW - 1), dout.dtype)
    wT = np.ascontiguousarray(w.transpose(2, 1, 3, 0)).reshape(KH, C * KW, F)  # taps (i, c, j): of one i none overlap
    images, rows = tiling(N, OH, OW, TILE)
    for item in prange(-(-N // images)):
        n0, n1 = item * images, min(N, (item + 1) * images)
        line = (n1 - n0) * OW
        for y0 in range(0, OH, rows):
            y1 = min(OH, y0 + rows)
            L = vectors(line * (y1 - y0))
            S = L + vectors(line * (KH - 1))
            n_channels = min(C, max(4, SHIFTS // (S * KW) // 4 * 4))
            block, buffer = aligned(F, L, dout), aligned(n_channels * KW, S, dout)
            block[:] = 0
            gather(block, dout, (n0, n1, y0, y1, OW), 0, F, 1)
            for c0 in range(0, C, n_channels):
                c1 = min(C, c0 + n_channels)
                buffer[:] = 0
                for i in range(KH):
                    filters, buffer_rows = wT[i, c0 * KW : c1 * KW], np.arange((c1 - c0) * KW) * S + i * line
                    add_product(buffer.reshape(-1), buffer_rows, filters, block.reshape(-1), np.arange(F) * L, L)
                scatter(dx, buffer, (n0, n1, y0, y1 + KH - 1, OW), c0, c1, KW)
    return dx

@kernel(parallel=True)
def dw_blocked(dout, x):
    """One owner for each few taps: dw (F, taps) is the sum over all tiles of dout (F, outputs) @ columns.T."""
    (N, F, OH, OW), (_, C, H, W) = dout.shape, x.shape
    KH, KW = H - OH + 1, W - OW + 1
    K = C * KH * KW
    dw = np.empty((F, K), dout.dtype)
    images, rows = tiling(N, OH, OW, DW_TILE)
    tiles, F4, V = -(-OH // rows), -(-F // 4) * 4, vectors(images * rows * OW)  # tiles of an image; a tile's size
    left = aligned(-(-N // images) * tiles * F4, V, dout)  # dout, tile by tile
    for item in prange(len(left) // F4):
        n0, y0 = item // tiles * images, item % tiles * rows
        left[item * F4 : (item + 1) * F4] = 0  # what is beyond a tile counts nothing
        gather(left[item * F4 :], dout, (n0, min(N, n0 + images), y0, min(OH, y0 + rows), OW), 0, F, 1)
    owned = min(DW_TAPS, -(-K // 32) * 4)  # eight owners or more, of a multiple of four taps each
    for item in prange(-(-K // owned)):
        k0, k1 = item * owned, min(K, (item + 1) * owned)
        c0, c1 = k0 // (KH * KW), (k1 - 1) // (KH * KW) + 1
        block = np.zeros((F4, -(-(k1 - k0) // 4) * 4), x.dtype)
        for tile in range(len(left) // F4):
            n0, y0 = tile // tiles * images, tile % tiles * rows
            n1, y1 = min(N, n0 + images), min(OH, y0 + rows)
            line = (n1 - n0) * OW
            S = V + vectors(line * (KH - 1))
            buffer = aligned((c1 - c0) * KW, S, x)
            buffer[:, line * (y1 - y0 + KH - 1) :] = 0
            gather(buffer, x, (n0, n1, y0, y1 + KH - 1, OW), c0, c1, KW)
            buffer_rows = tap_rows(k0, k1, KH, KW, line, S)
            add_dots(block, left[tile * F4 : (tile + 1) * F4], buffer.reshape(-1), buffer_rows)
        dw[:, k0:k1] = block[:F, : k1 - k0]
    return dw.reshape(F, C, KH, KW)

RUNGS = {  # name: (forward, dx, dw)
    "loops": (forward_loops, dx_loops, dw_loops),
    "taps": (forward_taps, dx_taps, dw_taps),
    "numba": (forward_numba, dx_numba, dw_numba),
    "blocked": (forward_blocked, dx_blocked, dw_blocked),
}

"""The convolution four times over, each time faster: a ladder from the printed formula to what the net uses (§3.1).

Every rung has the same three functions. Each is tested against the rung below, the fourth also against torch.

    forward(x, w)  -> out: (N, F, OH, OW)   out[n, f, y, z] = sum over c, i, j of x[n, c, y + i, z + j] w[f, c, i, j]
    dx(dout, w)    -> dx:  (N, C, H, W)     the loss's gradient by x
    dw(dout, x)    -> dw:  (F, C, KH, KW)   the loss's gradient by w

    x: (N, C, H, W) images; w: (F, C, KH, KW) filters; dout: (N, F, OH, OW) the loss's gradient by out
    Stride 1, "valid": OH = H - KH + 1 and OW = W - KW + 1. float32 or float64, C-contiguous, all of one dtype.

As everywhere in deep learning the filter is not flipped: what is called a convolution is a cross-correlation. Nothing is
checked here; layers.conv2d_forward does that.
"""

import numpy as np
from numba import prange

from .jit import kernel

# Rung 1: plain Python, as the formula stands ---------------------------------------------------------------------------


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


# Rung 2: NumPy, one array operation for each tap of the filter ---------------------------------------------------------


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


# Rung 3: the loops of rung 1, compiled, on all cores -------------------------------------------------------------------
# Whatever runs in parallel owns what it writes, so that no two threads meet and the result is the same for any number of
# threads: an output plane in forward, an image's channel in dx, a filter in dw. Sums are kept in float64.


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


# Rung 4: blocks that stay in the cache, the one that the net uses ------------------------------------------------------
# Copy the pixels that a tile of outputs needs into columns, one row for each tap, and the convolution is a product of two
# matrices: out (F, pixels) = w (F, taps) @ columns (taps, pixels). The teaching code of many courses does it for a whole
# minibatch at once (im2col); its columns are 49 times the images for a 7x7 filter, and the time goes into moving them.
# Here a tile's columns are used up while they are in the cache, and then written over.

TILE = 384  # outputs in a tile, about
TAPS = 128  # rows of columns at a time: 128 * 384 float32 are 192 KB, and the level-2 cache of a core holds 1 MB or so
OWNED = 64  # rows of dw that one owner fills at a time


@kernel
def aligned(rows, columns, like):
    """Return zeros (rows, columns) of like's dtype that begin at a cache line; unaligned ones cost a third of the rate."""
    flat = np.zeros(rows * columns + 64 // like.itemsize, like.dtype)
    skip = -flat.ctypes.data % 64 // like.itemsize
    return flat[skip : skip + rows * columns].reshape(rows, columns)


@kernel(fastmath={"contract"})  # a * b + c in one instruction: twice the rate
def add_product(out, a, b):
    """Add a (M, K) @ b (K, L) to out (M, L), four rows of out and four of b at a time.

    The inner loop becomes vector instructions: 16 products for 8 loads and 4 stores, enough to keep the multipliers busy.
    """
    (M, K), L = a.shape, b.shape[1]
    for m in range(0, M - 3, 4):
        out0, out1, out2, out3 = out[m], out[m + 1], out[m + 2], out[m + 3]
        for k in range(0, K - 3, 4):
            b0, b1, b2, b3 = b[k], b[k + 1], b[k + 2], b[k + 3]
            a00, a01, a02, a03 = a[m, k], a[m, k + 1], a[m, k + 2], a[m, k + 3]
            a10, a11, a12, a13 = a[m + 1, k], a[m + 1, k + 1], a[m + 1, k + 2], a[m + 1, k + 3]
            a20, a21, a22, a23 = a[m + 2, k], a[m + 2, k + 1], a[m + 2, k + 2], a[m + 2, k + 3]
            a30, a31, a32, a33 = a[m + 3, k], a[m + 3, k + 1], a[m + 3, k + 2], a[m + 3, k + 3]
            for p in range(L):
                v0, v1, v2, v3 = b0[p], b1[p], b2[p], b3[p]
                out0[p] += a00 * v0 + a01 * v1 + a02 * v2 + a03 * v3
                out1[p] += a10 * v0 + a11 * v1 + a12 * v2 + a13 * v3
                out2[p] += a20 * v0 + a21 * v1 + a22 * v2 + a23 * v3
                out3[p] += a30 * v0 + a31 * v1 + a32 * v2 + a33 * v3
        for k in range(K - K % 4, K):
            for row in range(m, m + 4):
                for p in range(L):
                    out[row, p] += a[row, k] * b[k, p]
    for row in range(M - M % 4, M):
        for k in range(K):
            for p in range(L):
                out[row, p] += a[row, k] * b[k, p]


@kernel
def tiling(N, OH, OW):
    """Return how many images and rows a tile has: several whole images, or some rows of one; TILE outputs, about."""
    images = max(1, min(N, TILE // (OH * OW)))
    rows = OH if OH * OW <= TILE else max(1, TILE // OW)
    return -(-N // -(-N // images)), -(-OH // -(-OH // rows))  # shared out evenly: no small tile at the end


@kernel
def to_columns(columns, x, tile, k0, k1, KH, KW):
    """Fill rows 0 .. k1 - k0 of columns with the pixels under the taps k0 .. k1 of a tile's outputs.

    tile: images n0 .. n1, output rows y0 .. y1 of OW outputs; a tap k counts (c, i, j) in row-major order
    """
    n0, n1, y0, y1, OW = tile
    for k in range(k0, k1):
        c, i, j = k // (KH * KW), k // KW % KH, k % KW
        row, p = columns[k - k0], 0
        for n in range(n0, n1):
            for y in range(y0, y1):
                source, target = x[n, c, y + i, j : j + OW], row[p : p + OW]
                for z in range(OW):
                    target[z] = source[z]
                p += OW


@kernel
def add_columns(x, columns, tile, k0, k1, KH, KW):
    """Add columns to the pixels that to_columns took them from."""
    n0, n1, y0, y1, OW = tile
    for k in range(k0, k1):
        c, i, j = k // (KH * KW), k // KW % KH, k % KW
        row, p = columns[k - k0], 0
        for n in range(n0, n1):
            for y in range(y0, y1):
                source, target = row[p : p + OW], x[n, c, y + i, j : j + OW]
                for z in range(OW):
                    target[z] += source[z]
                p += OW


@kernel(parallel=True)
def forward_blocked(x, w):
    """One owner for each tile of outputs."""
    (N, C, H, W), (F, _, KH, KW) = x.shape, w.shape
    OH, OW, K = H - KH + 1, W - KW + 1, C * KH * KW
    out = np.zeros((N, F, OH, OW), x.dtype)
    images, rows = tiling(N, OH, OW)
    tiles = -(-OH // rows)  # of one image
    for item in prange(-(-N // images) * tiles):
        n0, y0 = item // tiles * images, item % tiles * rows
        tile = (n0, min(N, n0 + images), y0, min(OH, y0 + rows), OW)
        L = -(-(tile[1] - n0) * (tile[3] - y0) * OW // 16) * 16  # whole vectors; what is beyond the tile is not used
        block, columns = aligned(F, L, x), aligned(min(K, TAPS), L, x)
        for k0 in range(0, K, TAPS):
            k1 = min(K, k0 + TAPS)
            to_columns(columns, x, tile, k0, k1, KH, KW)
            add_product(block, w.reshape(F, K)[:, k0:k1], columns)
        add_columns(out, block, tile, 0, F, 1, 1)
    return out


@kernel(parallel=True)
def dx_blocked(dout, w):
    """One owner for each tile's images: the columns' gradient is w.T @ dout, and goes back where they came from."""
    (N, F, OH, OW), (_, C, KH, KW) = dout.shape, w.shape
    K = C * KH * KW
    dx = np.zeros((N, C, OH + KH - 1, OW + KW - 1), dout.dtype)
    wT = np.ascontiguousarray(w.reshape(F, K).T)
    images, rows = tiling(N, OH, OW)
    for item in prange(-(-N // images)):
        n0, n1 = item * images, min(N, (item + 1) * images)
        for y0 in range(0, OH, rows):
            tile = (n0, n1, y0, min(OH, y0 + rows), OW)
            L = -(-(n1 - n0) * (tile[3] - y0) * OW // 16) * 16
            block, columns = aligned(F, L, dout), aligned(min(K, TAPS), L, dout)
            to_columns(block, dout, tile, 0, F, 1, 1)
            for k0 in range(0, K, TAPS):
                k1 = min(K, k0 + TAPS)
                columns[:] = 0
                add_product(columns, wT[k0:k1], block)
                add_columns(dx, columns, tile, k0, k1, KH, KW)
    return dx


@kernel(parallel=True)
def dw_blocked(dout, x):
    """One owner for each few taps: dw.T (taps, F) is the sum over all tiles of columns @ dout.T (pixels, F)."""
    (N, F, OH, OW), (_, C, H, W) = dout.shape, x.shape
    P, KH, KW = OH * OW, H - OH + 1, W - OW + 1
    K = C * KH * KW
    doutT = aligned(N * P, -(-F // 16) * 16, dout)
    for n in prange(N):
        source, target = dout[n].reshape(F, P), doutT[n * P : (n + 1) * P]
        for p0 in range(0, P, 16):
            for f in range(F):
                for p in range(p0, min(P, p0 + 16)):
                    target[p, f] = source[f, p]
    dwT = np.empty((K, F), dout.dtype)
    images, rows = tiling(N, OH, OW)
    owned = min(OWNED, -(-K // 32) * 4)  # eight owners or more, of a multiple of four taps each
    for item in prange(-(-K // owned)):
        k0, k1 = item * owned, min(K, (item + 1) * owned)
        block, columns = aligned(k1 - k0, doutT.shape[1], x), aligned(k1 - k0, images * rows * OW, x)
        for n0 in range(0, N, images):
            n1 = min(N, n0 + images)
            for y0 in range(0, OH, rows):
                tile = (n0, n1, y0, min(OH, y0 + rows), OW)
                p0, p1 = n0 * P + y0 * OW, (n1 - 1) * P + tile[3] * OW
                to_columns(columns, x, tile, k0, k1, KH, KW)
                add_product(block, columns[:, : p1 - p0], doutT[p0:p1])
        dwT[k0:k1] = block[:, :F]
    return np.ascontiguousarray(dwT.T).reshape(F, C, KH, KW)


RUNGS = {  # name: (forward, dx, dw)
    "loops": (forward_loops, dx_loops, dw_loops),
    "taps": (forward_taps, dx_taps, dw_taps),
    "numba": (forward_numba, dx_numba, dw_numba),
    "blocked": (forward_blocked, dx_blocked, dw_blocked),
}

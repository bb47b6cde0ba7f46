"""Products of matrices that stay in a core's cache: the fast convolution and the linear layer are made of them.

NumPy's own product is as fast. It keeps threads of its own, though, which after every product look for more work for
some milliseconds, on the cores that Numba's threads need: with it a step of the 35x35 net took twice the time.
Matrices are flat here, with the place where each row begins, so that rows may overlap.
"""

import numpy as np
from numba import prange

from .jit import kernel

ROWS, COLUMNS, DEPTH = 128, 256, 128  # of the blocks that product works on; DEPTH * COLUMNS float32 are 128 KB

@kernel
def aligned(rows, columns, like):
    """Return an array (rows, columns) of like's dtype, not filled, from a cache line on: 98 GFLOP/s against 75."""
    flat = np.empty(rows * columns + 64 // like.itemsize, like.dtype)
    skip = -flat.ctypes.data % 64 // like.itemsize
    return flat[skip : skip + rows * columns].reshape(rows, columns)

@kernel
def vectors(n):
    """Return n rounded up to whole vectors of 16 numbers: the processor does the rest of a vector at no cost."""
    return -(-n // 16) * 16

@kernel(fastmath={"contract"})  # a * b + c in one instruction: 98 GFLOP/s a core against 89
def add_product(out, out_rows, a, b, b_rows, L):
    """Add a (M, K) @ b (K, L) to out (M, L), four rows of out and four of b at a time.

    out, b: flat; row m of out begins at out_rows[m], row k of b at b_rows[k]. Of each four rows of out no two overlap.
    The inner loop becomes vector instructions: 16 products for 8 loads and 4 stores keep the multipliers busy.
    """
    M, K = a.shape
    for m in range(0, M - 3, 4):
        out0, out1 = out[out_rows[m] :][:L], out[out_rows[m + 1] :][:L]
        out2, out3 = out[out_rows[m + 2] :][:L], out[out_rows[m + 3] :][:L]
        for k in range(0, K - 3, 4):
            b0, b1 = b[b_rows[k] :][:L], b[b_rows[k + 1] :][:L]
            b2, b3 = b[b_rows[k + 2] :][:L], b[b_rows[k + 3] :][:L]
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
        for row in range(m, m + 4):
            for k in range(K - K % 4, K):
                add_row(out[out_rows[row] :][:L], a[row, k], b[b_rows[k] :])
    for row in range(M - M % 4, M):
        for k in range(K):
            add_row(out[out_rows[row] :][:L], a[row, k], b[b_rows[k] :])

@kernel(fastmath={"contract"})
def add_row(out, factor, row):
    """Add factor * row to out."""
    for p in range(len(out)):
        out[p] += factor * row[p]

@kernel(fastmath={"contract", "reassoc"})  # reassoc: sums in parts, or they cannot become vector instructions
def add_dots(out, a, b, b_rows):
    """Add a (M, L) @ b (K, L).T to out (M, K), four rows of a and four of b at a time; M and K are multiples of four.

    b: flat; row k begins at b_rows[k]
    """
    (M, L), K = a.shape, len(b_rows)
    for k in range(0, K, 4):
        b0, b1 = b[b_rows[k] :][:L], b[b_rows[k + 1] :][:L]
        b2, b3 = b[b_rows[k + 2] :][:L], b[b_rows[k + 3] :][:L]
        for m in range(0, M, 4):
            a0, a1, a2, a3 = a[m], a[m + 1], a[m + 2], a[m + 3]
            t00 = t01 = t02 = t03 = t10 = t11 = t12 = t13 = a.dtype.type(0)
            t20 = t21 = t22 = t23 = t30 = t31 = t32 = t33 = a.dtype.type(0)
            for p in range(L):
                u0, u1, u2, u3 = a0[p], a1[p], a2[p], a3[p]
                v0, v1, v2, v3 = b0[p], b1[p], b2[p], b3[p]
                t00, t01, t02, t03 = t00 + u0 * v0, t01 + u0 * v1, t02 + u0 * v2, t03 + u0 * v3
                t10, t11, t12, t13 = t10 + u1 * v0, t11 + u1 * v1, t12 + u1 * v2, t13 + u1 * v3
                t20, t21, t22, t23 = t20 + u2 * v0, t21 + u2 * v1, t22 + u2 * v2, t23 + u2 * v3
                t30, t31, t32, t33 = t30 + u3 * v0, t31 + u3 * v1, t32 + u3 * v2, t33 + u3 * v3
            totals = (t00, t01, t02, t03, t10, t11, t12, t13, t20, t21, t22, t23, t30, t31, t32, t33)
            for i, total in enumerate(totals):
                out[m + i // 4, k + i % 4] += total

@kernel(parallel=True)
def product(a, b):
    """Return a (M, K) @ b (K, L); either may be transposed. One owner for each block of the result."""
    (M, K), L = a.shape, b.shape[1]
    out = np.empty((M, L), a.dtype)
    wide = -(-L // -(-L // COLUMNS))  # shared out evenly
    across, V = -(-L // wide), vectors(wide)
    for item in prange(-(-M // ROWS) * across):
        m0, l0 = item // across * ROWS, item % across * wide
        m1, l1 = min(M, m0 + ROWS), min(L, l0 + wide)
        block, part = aligned(m1 - m0, V, a), aligned(DEPTH, V, a)
        block[:] = 0
        for k0 in range(0, K, DEPTH):
            k1 = min(K, k0 + DEPTH)
            if b.strides[0] > b.strides[1]:
                part[: k1 - k0, : l1 - l0] = b[k0:k1, l0:l1]
            else:  # a transposed matrix is read along its memory
                for column in range(l0, l1):
                    for k in range(k0, k1):
                        part[k - k0, column - l0] = b[k, column]
            block_rows, part_rows = np.arange(m1 - m0) * V, np.arange(k1 - k0) * V
            add_product(block.reshape(-1), block_rows, a[m0:m1, k0:k1], part.reshape(-1), part_rows, V)
        out[m0:m1, l0:l1] = block[:, : l1 - l0]
    return out

"""Task 5: the convolution with Numba, compiled and on all cores.

    forward(x, w)  -> out: (N, F, OH, OW)   out[n, f, y, z] = sum over c, i, j of x[n, c, y + i, z + j] w[f, c, i, j]
    dx(dout, w)    -> dx:  (N, C, H, W)     the loss's gradient by x
    dw(dout, x)    -> dw:  (F, C, KH, KW)   the loss's gradient by w

    x: (N, C, H, W) images; w: (F, C, KH, KW) filters; dout: (N, F, OH, OW) the loss's gradient by out
    Stride 1, "valid": OH = H - KH + 1 and OW = W - KW + 1. float32 or float64, C-contiguous, all of one dtype.

Write plain loops. What runs in parallel (prange) must own what it writes, so that no two threads meet: the result is
to be the same for any number of threads. No @ and no np.dot, which Numba would take from SciPy.
"""

import numpy as np  # noqa: F401
from given import kernel  # numba.njit that keeps the machine code, where it can
from numba import prange  # noqa: F401


@kernel(parallel=True)
def forward_numba(x, w):
    """One owner for each output plane (n, f)."""
    raise NotImplementedError("Task 5: prange over the N * F output planes")


@kernel(parallel=True)
def dx_numba(dout, w):
    """One owner for each channel of an image (n, c): it gathers its pixels' shares, instead of handing them out."""
    raise NotImplementedError("Task 5: prange over the N * C planes of dx; gather, do not hand out")


@kernel(parallel=True)
def dw_numba(dout, x):
    """One owner for each filter f: the sum over images stays inside it."""
    raise NotImplementedError("Task 5: prange over the F filters; the sum over images stays inside")

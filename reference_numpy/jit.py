"""How this package compiles its loops with Numba. NUMBA_DISABLE_JIT=1 runs them as plain Python instead."""

import os

import numba

# Numba's own worker threads sleep while they have nothing to do. The OpenMP ones spin, and would hold a core that the
# matrix products of NumPy need in the next moment: a kernel and a 512x512 product by turns took 9.5 ms so, 2.5 ms now.
os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")
numba.config.THREADING_LAYER = os.environ["NUMBA_THREADING_LAYER"]  # Numba, imported before, has read it already

def kernel(function=None, **options):
    """Compile a function for the types it is called with and keep the result for the next start.

    function: plain loops over arrays; options: those of numba.njit
    The machine code goes to __pycache__ beside the source, else to the user's cache folder, else nowhere.
    """
    if function is None:
        return lambda function: kernel(function, **options)
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither folder can be written: compile at every start
        return numba.njit(**options)(function)

"""How this package compiles its loops with Numba. NUMBA_DISABLE_JIT=1 runs them as plain Python instead."""

import numba

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

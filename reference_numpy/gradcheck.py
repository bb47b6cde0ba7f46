"""Check a backward pass by central differences: the test that any layer, and any student's, can be put to."""

from typing import NamedTuple

import numpy as np

class Verdict(NamedTuple):
    """Hold what gradcheck found: errors, one relative error for each argument (None where nothing was checked), and
    passed, whether all are within the tolerance."""

    errors: tuple
    passed: bool

    def __str__(self):
        errors = ", ".join("-" if error is None else f"{error:.1e}" for error in self.errors)
        return f"{'passed' if self.passed else 'FAILED'}: relative errors {errors}"

def gradcheck(forward, backward, *arguments, n_entries=20, step=1e-5, tolerance=1e-6, seed=0):
    """Compare the gradients of a layer with central differences.

    forward: (*arguments) -> out, cache; backward: (dout, cache) -> gradients by the arguments, in their order
    arguments: float64 arrays are checked at n_entries random entries each; any other argument is passed on
    step: the differences are taken over x - step .. x + step; choose inputs whose kinks (|x|, max) are farther away
    Returns a Verdict. An argument's error is the largest difference between its gradient and the differences, over the
    largest entry of either; a gradient that is missing, of a wrong shape or not a number has the error infinity.
    Raises ValueError when no argument is a float64 array.
    """
    rng = np.random.default_rng(seed)
    checked = [isinstance(a, np.ndarray) and a.dtype == np.float64 for a in arguments]
    if not any(checked):
        raise ValueError("gradcheck needs a float64 array among the arguments; float32 is too coarse for differences")
    out, cache = forward(*(a.copy() if c else a for a, c in zip(arguments, checked)))
    dout = rng.standard_normal(np.shape(out))  # the scalar whose gradients are checked is sum(out * dout)
    gradients = backward(dout.copy(), cache)
    gradients = tuple(gradients) if isinstance(gradients, (tuple, list)) else (gradients,)
    gradients += (None,) * (len(arguments) - len(gradients))
    errors = []
    for i, argument in enumerate(arguments):
        if not checked[i]:
            errors.append(None)
            continue
        entries = rng.permutation(argument.size)[:n_entries]
        numeric = np.empty(len(entries))
        for k, entry in enumerate(entries):
            ends = []
            for sign in (1, -1):
                moved = [a.copy() if c else a for a, c in zip(arguments, checked)]
                moved[i].flat[entry] += sign * step
                ends.append((forward(*moved)[0] * dout).sum())
            numeric[k] = (ends[0] - ends[1]) / (2 * step)
        errors.append(relative_error(gradients[i], argument.shape, entries, numeric))
    return Verdict(tuple(errors), all(error is None or error <= tolerance for error in errors))

def relative_error(gradient, shape, entries, numeric):
    """Return the largest difference of a gradient's entries from the numeric ones, over the largest of either."""
    if gradient is None or np.shape(gradient) != shape:
        return float("inf")
    analytic = np.asarray(gradient, np.float64).reshape(-1)[entries]
    largest = max(np.abs(analytic).max(initial=0), np.abs(numeric).max(initial=0))
    error = np.abs(analytic - numeric).max(initial=0) / largest if largest else 0.0
    return float(error) if np.isfinite(error) else float("inf")

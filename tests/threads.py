"""The results of reference_numpy's kernels are the same for one thread and for two.

test_convolution.py runs this file in a process of its own, because Numba wants to know the most threads at its start:

    NUMBA_DISABLE_JIT=0 NUMBA_NUM_THREADS=2 python -m pytest tests/threads.py
"""

import numba
import numpy as np
import pytest
from test_convolution import both_dtypes, inputs, results
from test_layers import signed

from reference_numpy import layers


def assert_the_same_for_any_number_of_threads(function, *arguments, repeats=8):
    numba.set_num_threads(1)
    wanted = function(*arguments)
    for _ in range(repeats):  # a race does not show every time
        for n_threads in (2, 1):
            numba.set_num_threads(n_threads)
            for array, right in zip(function(*arguments), wanted):
                assert np.array_equal(array, right)


@both_dtypes
@pytest.mark.parametrize("shape", [(24, 8, 20, 19, 12, 3, 3), (2, 3, 60, 50, 16, 5, 4)])
@pytest.mark.parametrize("rung", ["taps", "numba", "blocked"])
def test_a_rungs_results_do_not_depend_on_the_number_of_threads(draw, rung, shape, dtype):
    assert_the_same_for_any_number_of_threads(lambda *arrays: results(rung, *arrays), *inputs(draw, shape, dtype))


def test_other_layers_results_do_not_depend_on_the_number_of_threads(draw):
    x, w, b = signed(draw, 150, 140), signed(draw, 270, 140), signed(draw, 270)
    images, scale, mean = signed(draw, 16, 7, 20, 20), draw.random(7), np.zeros(7)

    def all_layers():
        out, cache = layers.linear_forward(x, w, b)
        pooled, first = layers.maxpool2x2_forward(images)
        normal, moments = layers.batchnorm_forward(images, scale, mean, mean, scale)
        return (out, *layers.linear_backward(out, cache), pooled, layers.maxpool2x2_backward(pooled, first),
                normal, *layers.batchnorm_backward(normal**2, moments), *layers.batchnorm_running(moments))  # fmt: skip

    assert_the_same_for_any_number_of_threads(all_layers)

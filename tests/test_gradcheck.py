"""The gradient check lets right gradients pass, and no wrong one."""

import numpy as np
import pytest

from reference_numpy import layers
from reference_numpy.gradcheck import gradcheck


def forward(x, y):
    return x * x * y.sum(), (x, y)


def backward(dout, cache):
    x, y = cache
    return 2 * dout * x * y.sum(), np.full_like(y, (dout * x * x).sum())


def arrays(draw, n=5):
    return draw.uniform(1, 2, (3, 2)) * draw.choice([-1, 1], (3, 2)), draw.uniform(1, 2, n)


def changed(change, which=0):
    """Return backward with one of its two gradients changed."""

    def wrong(dout, cache):
        gradients = list(backward(dout, cache))
        gradients[which] = change(gradients[which])
        return tuple(gradients)

    return wrong


def test_right_gradients_pass(draw):
    verdict = gradcheck(forward, backward, *arrays(draw))
    assert verdict.passed and len(verdict.errors) == 2 and max(verdict.errors) < 1e-7
    assert str(verdict).startswith("passed")


def one_entry(gradient):
    gradient = gradient.copy()
    gradient.flat[-1] *= 1.001
    return gradient


WRONG = {
    "sign": lambda g: -g,
    "zero": lambda g: 0 * g,
    "double": lambda g: 2 * g,
    "a little": lambda g: g * (1 + 1e-5),
    "moved": lambda g: g + 1e-4 * np.abs(g).max(),
    "one entry": one_entry,
}
UNUSABLE = {
    "missing": lambda g: None,
    "NaN": lambda g: g * np.nan,
    "one NaN": lambda g: np.where(np.arange(g.size).reshape(g.shape) == 1, np.nan, g),
    "infinite": lambda g: g + np.inf,
    "another shape": lambda g: g.reshape(-1)[:-1],
    "flat": lambda g: g.reshape(1, -1),
    "summed": lambda g: g.sum(),
}


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("change", WRONG)
def test_a_wrong_gradient_fails_and_the_verdict_names_its_argument(draw, change, which):
    verdict = gradcheck(forward, changed(WRONG[change], which), *arrays(draw))
    assert not verdict.passed and str(verdict).startswith("FAILED")
    assert verdict.errors[which] > 1e-6 > verdict.errors[1 - which]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("change", UNUSABLE)
def test_a_gradient_that_is_none_has_an_infinite_error(draw, change, which):
    verdict = gradcheck(forward, changed(UNUSABLE[change], which), *arrays(draw))
    assert not verdict.passed and verdict.errors[which] == np.inf and verdict.errors[1 - which] < 1e-6


def test_a_single_array_is_one_gradient(draw):
    x = draw.standard_normal((2, 3))
    assert gradcheck(lambda x: (x**3, x), lambda dout, x: 3 * x * x * dout, x).passed
    assert not gradcheck(lambda x: (x**3, x), lambda dout, x: 3 * x * dout, x).passed
    assert gradcheck(lambda x: (x**3, x), lambda dout, x: [3 * x * x * dout], x).passed  # in a list


def test_a_gradient_of_zero_passes_where_nothing_depends_on_the_argument(draw):
    x = draw.standard_normal(4)
    assert gradcheck(lambda x: (np.ones(2), x), lambda dout, x: 0 * x, x).errors == (0,)
    assert not gradcheck(lambda x: (np.ones(2), x), lambda dout, x: x, x).passed


def test_a_backward_pass_that_ignores_dout_fails(draw):
    assert not gradcheck(lambda x: (x * x, x), lambda dout, x: 2 * x, draw.standard_normal(4)).passed


def test_arguments_that_are_no_float64_arrays_are_passed_on_and_not_checked(draw):
    x, same = draw.standard_normal(5), np.array([1, 0, 1, 1, 0])
    verdict = gradcheck(layers.bce_with_logits_forward, layers.bce_with_logits_backward, x, same)
    assert verdict.passed and verdict.errors[1] is None and str(verdict).endswith("-")


def test_without_a_float64_array_there_is_nothing_to_check(draw):
    x, y = arrays(draw)
    for wrong in ((x.astype(np.float32), y.astype(np.float32)), (1.0, 2.0), (np.arange(3), np.arange(2))):
        with pytest.raises(ValueError, match="float64"):
            gradcheck(forward, backward, *wrong)


def test_every_entry_of_a_small_array_is_checked(draw):
    x, y = arrays(draw, 20)
    for entry in range(y.size):
        wrong = changed(lambda g: g * np.where(np.arange(g.size) == entry, 1.01, 1.0), 1)
        assert not gradcheck(forward, wrong, x, y).passed


def test_arguments_stay_as_they_are_and_the_same_seed_gives_the_same_errors(draw):
    x, y = arrays(draw)
    before = x.copy(), y.copy()

    def careless_forward(x, y):
        out, _ = forward(x, y)
        x += 0.5
        return out, (x - 0.5, y)

    verdicts = [gradcheck(careless_forward, backward, x, y, seed=3) for _ in range(2)]
    assert np.array_equal(x, before[0]) and np.array_equal(y, before[1])
    assert verdicts[0] == verdicts[1] and verdicts[0].passed


def test_the_tolerance_decides(draw):
    wrong = changed(lambda g: g * (1 + 1e-4))
    assert not gradcheck(forward, wrong, *arrays(draw)).passed
    assert gradcheck(forward, wrong, *arrays(draw), tolerance=1e-3).passed

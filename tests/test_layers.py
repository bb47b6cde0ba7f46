"""The layers of reference_numpy, or with --impl those of another module, against torch and against differences."""

import math
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import koch
from reference_numpy.gradcheck import gradcheck

DTYPES = ("float64", "float32")

# What torch computes in the layers' place -----------------------------------------------------------------------------


def torch_conv2d(x, w, b=None):
    return F.conv2d(x, w, b)


def torch_pad(x, margin=1):
    return F.pad(x, [margin] * 4)


def torch_batchnorm(x, scale, shift, mean, var, training=True, momentum=0.1, epsilon=1e-5):
    return F.batch_norm(x, mean.clone(), var.clone(), scale, shift, training, momentum, epsilon)


def torch_l1_join(h1, h2, alpha, bias):
    return F.linear((h1 - h2).abs(), alpha, bias).squeeze(-1)


def torch_softmax_cross_entropy(logits, same):
    """koch.softmax_loss without torch's softplus, which is not exact from 20 on."""
    different = logits.masked_fill(same, -math.inf).logsumexp(2, keepdim=True)
    losses = torch.logaddexp(different - logits, torch.zeros_like(logits))
    return losses[same & ~torch.eye(len(same[0]), dtype=torch.bool)].mean()


TORCH = {  # layer: what it computes, by how many of its arguments there are gradients
    "conv2d": (torch_conv2d, 3),
    "pad": (torch_pad, 1),
    "maxpool2x2": (lambda x: F.max_pool2d(x, 2), 1),
    "relu": (torch.relu, 1),
    "sigmoid": (torch.sigmoid, 1),
    "linear": (F.linear, 3),
    "batchnorm": (torch_batchnorm, 3),
    "l1_join": (torch_l1_join, 4),
    "bce_with_logits": (F.binary_cross_entropy_with_logits, 1),
    "softmax_cross_entropy": (torch_softmax_cross_entropy, 1),
}

# Inputs: float64 here, of both dtypes in the tests --------------------------------------------------------------------


def signed(draw, *shape):
    """Both signs, and a fifth exact zeros."""
    return draw.standard_normal(shape) * (draw.random(shape) < 0.8)


def binary(draw, *shape):
    """A drawing: ties and zeros everywhere."""
    return (draw.random(shape) < 0.4).astype(float)


def coins(draw, n):
    """Half ones, half zeros; an odd one is a one."""
    return draw.permutation(np.arange(n) % 2 == 0).astype(float)


def conv2d(n, c, h, w, f, kh, kw, draw, bias=True, pixels=signed):
    b = (signed(draw, f) + 0.5,) if bias else ()
    return pixels(draw, n, c, h, w), signed(draw, f, c, kh, kw), *b


def linear(n, d, m, draw):
    return signed(draw, n, d), signed(draw, m, d), signed(draw, m) + 0.5


def batchnorm(shape, draw, training=True, centre=0.0, pixels=signed, **options):
    c = shape[1]
    statistics = draw.standard_normal(c) + centre, draw.random(c) + 0.3
    x = pixels(draw, *shape) * (1 + np.arange(c)).reshape(-1, *[1] * (len(shape) - 2)) + centre
    return x, draw.random(c) + 0.5, signed(draw, c), *statistics, training, *options.values()


def l1_join(shape1, shape2, draw, pixels=signed):
    d = shape1[-1]
    return pixels(draw, *shape1), pixels(draw, *shape2), signed(draw, 1, d), draw.standard_normal(1)


def bce(n, draw, factor=1.0):
    return signed(draw, n) * factor, coins(draw, n)


def softmax(a, characters, draw, factor=1.0):
    """Logits of a alphabets; each drawing's character is drawn anew, in another order."""
    shuffled = np.array([draw.permutation(characters) for _ in range(a)])  # (A, n)
    return signed(draw, a, *[len(characters)] * 2) * factor, shuffled[:, :, None] == shuffled[:, None]


def values(*numbers):
    return lambda draw: (np.array(numbers, float),)


LONG = (0.0, -0.0, 1e-30, -1e-30, 1, -1, 16.5, 17, -17, 36, -36, 90, -90, 100, -100, 710, -710, 1000, -1000)
CONV_SHAPES = {  # N, C, H, W, F, KH, KW
    "one_number": (1, 1, 1, 1, 1, 1, 1),
    "one_image": (1, 3, 6, 5, 5, 2, 4),
    "one_channel": (2, 1, 5, 7, 2, 3, 2),
    "one_filter": (2, 2, 7, 4, 1, 3, 2),
    "kernel_is_image": (3, 2, 4, 5, 6, 4, 5),
    "kernel_as_high_as_image": (2, 2, 3, 6, 3, 3, 2),
    "kernel_1x1": (2, 3, 4, 3, 7, 1, 1),
    "kernel_in_a_row": (3, 2, 3, 9, 3, 1, 4),
    "kernel_in_a_column": (3, 2, 9, 3, 3, 4, 1),
    "fours_everywhere": (4, 4, 7, 7, 4, 4, 4),
    "one_more_than_four": (5, 5, 6, 7, 5, 3, 3),
    "rows_in_three_tiles": (2, 1, 33, 31, 1, 2, 2),  # more than 2 * TILE outputs in an image
    "an_output_row_longer_than_a_tile": (1, 1, 3, 1030, 1, 2, 3),  # and than DW_TILE
    "three_images_in_a_tile": (8, 1, 11, 11, 2, 2, 2),  # of TILE; the last tile has two
    "several_tiles_of_images": (22, 1, 10, 11, 1, 1, 2),  # and two in dw: more than DW_TILE outputs
    "channels_in_two_parts": (1, 5, 20, 31, 1, 3, 12),  # more than SHIFTS numbers
    "many_taps": (2, 9, 9, 9, 2, 8, 9),  # 648, for several owners of DW_TAPS
}
BIG_CONV_SHAPES = {  # too much for plain Python
    "the_papers_second": (2, 9, 24, 23, 13, 7, 7),
    "the_reduced_nets": (5, 33, 18, 18, 21, 3, 3),
    "many_channels_in_parts": (3, 40, 22, 31, 6, 4, 8),
    "many_small_images": (131, 6, 7, 6, 9, 3, 3),
    "the_papers_first": (2, 1, 60, 64, 7, 10, 10),
}
compiled = pytest.mark.compiled
# Numbers beyond a vector's last one may be anything.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in scalar:RuntimeWarning")
CASES = [
    *((f"conv2d-{name}", partial(conv2d, *shape)) for name, shape in CONV_SHAPES.items()),
    *((f"conv2d-{name}", partial(conv2d, *shape), compiled) for name, shape in BIG_CONV_SHAPES.items()),
    ("conv2d-no_bias", partial(conv2d, 3, 2, 6, 5, 3, 2, 3, bias=False)),
    ("conv2d-drawings", partial(conv2d, 3, 2, 6, 8, 3, 2, 3, pixels=binary)),
    ("pad-one", lambda draw: (signed(draw, 2, 3, 4, 5),)),
    ("pad-two", lambda draw: (signed(draw, 1, 1, 3, 2), 2)),
    ("maxpool2x2-even", lambda draw: (signed(draw, 2, 3, 4, 6),)),
    ("maxpool2x2-odd", lambda draw: (signed(draw, 1, 2, 5, 7),)),
    ("maxpool2x2-odd_rows", lambda draw: (signed(draw, 2, 1, 3, 4),)),
    ("maxpool2x2-one", lambda draw: (signed(draw, 1, 1, 2, 2),)),
    ("maxpool2x2-drawings", lambda draw: (binary(draw, 3, 2, 12, 13),)),
    ("maxpool2x2-negative", lambda draw: (-1 - draw.integers(0, 3, (2, 2, 6, 6)).astype(float),)),
    ("maxpool2x2-big", lambda draw: (binary(draw, 37, 5, 33, 32),), compiled),
    ("relu-any", lambda draw: (signed(draw, 3, 2, 5, 4),)),
    ("relu-one_axis", lambda draw: (signed(draw, 7),)),
    ("relu-extremes", values(0.0, -0.0, 5e-39, -5e-39, 1e30, -1e30)),
    ("sigmoid-any", lambda draw: (signed(draw, 5, 7) * 3,)),
    ("sigmoid-extremes", values(*LONG)),
    ("linear-any", partial(linear, 3, 7, 5)),
    ("linear-one", partial(linear, 1, 1, 1)),
    ("linear-one_image", partial(linear, 1, 6, 9)),
    ("linear-one_feature", partial(linear, 6, 5, 1)),
    ("linear-one_input", partial(linear, 5, 1, 6)),
    ("linear-many_images", partial(linear, 261, 2, 3)),  # past ROWS, COLUMNS and DEPTH, one after the other
    ("linear-many_inputs", partial(linear, 2, 263, 3)),
    ("linear-many_features", partial(linear, 3, 2, 517)),
    ("linear-blocks", partial(linear, 133, 270, 259), compiled),
    ("batchnorm-images", partial(batchnorm, (3, 2, 4, 5))),
    ("batchnorm-one_image", partial(batchnorm, (1, 3, 2, 5))),
    ("batchnorm-one_channel", partial(batchnorm, (4, 1, 3, 2))),
    ("batchnorm-features", partial(batchnorm, (6, 5))),
    ("batchnorm-far_from_zero", partial(batchnorm, (6, 3), centre=300.0)),
    ("batchnorm-drawings", partial(batchnorm, (4, 2, 5, 5), pixels=binary)),
    ("batchnorm-nearly_constant", partial(batchnorm, (5, 2, 2, 3), pixels=lambda *a: 3e-3 * signed(*a))),
    ("batchnorm-other_settings", partial(batchnorm, (5, 3), momentum=0.3, epsilon=0.1)),
    ("batchnorm-inference", partial(batchnorm, (3, 2, 4, 5), training=False)),
    ("batchnorm-inference_features", partial(batchnorm, (4, 3), training=False)),
    ("batchnorm-inference_one_value", partial(batchnorm, (1, 3), training=False, momentum=0.3, epsilon=0.1)),
    ("batchnorm-big", partial(batchnorm, (16, 9, 20, 21)), compiled),
    ("l1_join-pairs", partial(l1_join, (5, 7), (5, 7))),
    ("l1_join-one", partial(l1_join, (1, 1), (1, 1))),
    ("l1_join-drawings", partial(l1_join, (6, 9), (6, 9), pixels=binary)),
    ("l1_join-every_pair", partial(l1_join, (2, 5, 1, 4), (2, 1, 5, 4))),  # as koch.softmax_loss does
    ("l1_join-every_pair_of_one", partial(l1_join, (1, 1, 1, 3), (1, 1, 1, 3))),
    ("l1_join-fewer_axes", partial(l1_join, (3, 4), (2, 3, 4))),
    ("l1_join-one_against_many", partial(l1_join, (6,), (5, 6))),
    ("bce_with_logits-any", partial(bce, 9)),
    ("bce_with_logits-one", partial(bce, 1)),
    ("bce_with_logits-saturated", partial(bce, 12, factor=100.0)),
    ("bce_with_logits-extremes", lambda draw: (np.array(LONG * 2), np.repeat([0.0, 1.0], len(LONG)))),
    ("softmax_cross_entropy-one_alphabet", partial(softmax, 1, (0, 0, 1, 1, 2))),
    ("softmax_cross_entropy-alphabets", partial(softmax, 3, (0, 0, 0, 1, 1, 2))),
    ("softmax_cross_entropy-two_characters", partial(softmax, 2, (0, 0, 1))),
    ("softmax_cross_entropy-saturated", partial(softmax, 3, (0, 0, 1, 1, 2, 2), factor=100.0)),
    ("softmax_cross_entropy-extremes", partial(softmax, 2, (0, 0, 1, 1, 2, 2), factor=1000.0)),
]
CASES = [pytest.param(name, make, id=name, marks=marks) for name, make, *marks in CASES]
FIRST = {case.id.partition("-")[0]: case for case in reversed(CASES)}  # of each layer
FEW = [case for case in CASES if "conv2d" not in case.id or case.id.split("-")[1] in ("one_image", "no_bias")]
FEW = [case for case in FEW if compiled not in case.marks and "many" not in case.id]
all_cases = pytest.mark.parametrize("name, make", CASES)
few_cases = pytest.mark.parametrize("name, make", FEW)
both_dtypes = pytest.mark.parametrize("dtype", DTYPES)

# Helpers --------------------------------------------------------------------------------------------------------------


class Result(NamedTuple):
    out: object
    gradients: tuple
    cache: object = None
    dout: object = None


def is_float(argument):
    return isinstance(argument, np.ndarray) and argument.dtype.kind == "f"


def cast(arguments, dtype):
    return tuple(a.astype(dtype) if is_float(a) else a for a in arguments)


def copies(arguments):
    return tuple(a.copy() if isinstance(a, np.ndarray) else a for a in arguments)


def as_tuple(gradients):
    return tuple(gradients) if isinstance(gradients, (tuple, list)) else (gradients,)


def run(impl, name, arguments, dout=None, draw=None):
    """Go forwards and backwards; dout is drawn if it is not given, and 1 for a loss."""
    layer = name.partition("-")[0]
    out, cache = getattr(impl, f"{layer}_forward")(*arguments)
    if dout is None:
        dout = slopes(np.shape(out), arguments[0].dtype, draw)
    return Result(out, as_tuple(getattr(impl, f"{layer}_backward")(dout, cache)), cache, dout)


def slopes(shape, dtype, draw):
    draw = draw or np.random.default_rng(1)
    return (signed(draw, *shape) + 0.01 if shape else np.array(draw.uniform(0.5, 2))).astype(dtype)


def by_torch(name, arguments, dout):
    """Return torch's out and gradients in float64, a gradient for each float argument that has one."""
    function, n_gradients = TORCH[name.partition("-")[0]]
    tensors = [torch.tensor(np.array(a, "f8" if is_float(a) else a.dtype)) if isinstance(a, np.ndarray) else a
               for a in arguments]  # fmt: skip
    inputs = [t.requires_grad_() for t in tensors[:n_gradients] if isinstance(t, torch.Tensor)]
    out = function(*tensors)
    gradients = torch.autograd.grad(out, inputs, torch.tensor(np.array(dout, np.float64)))
    return Result(out.detach().numpy(), tuple(g.numpy() for g in gradients))


def assert_near(actual, wanted, dtype):
    """float64: to ten digits; float32: to 1e-4 of the tensor's largest entry."""
    assert np.shape(actual) == np.shape(wanted)
    actual, wanted = np.asarray(actual), np.asarray(wanted)
    assert actual.dtype == dtype
    largest = np.abs(wanted).max(initial=0)
    rtol, atol = (1e-10, 1e-12 * largest) if dtype == "float64" else (0, 1e-4 * largest)
    np.testing.assert_allclose(actual, wanted, rtol, atol)


def assert_all_near(result, wanted, dtype):
    assert_near(result.out, wanted.out, dtype)
    assert len(result.gradients) >= len(wanted.gradients)
    for gradient, other in zip(result.gradients, wanted.gradients):
        assert gradient is not None and isinstance(gradient, (np.ndarray, np.generic))
        assert_near(gradient, other, dtype)
    assert all(gradient is None for gradient in result.gradients[len(wanted.gradients) :])


def assert_same(result, wanted):
    """The same to rounding: another layout may be summed in another order."""
    for array, right in zip((result.out, *result.gradients), (wanted.out, *wanted.gradients)):
        assert (array is None) == (right is None)
        if array is not None:
            np.testing.assert_allclose(array, right, rtol=1e-12, atol=1e-13 * np.abs(right).max(initial=0))


def arrays_in(thing):
    """Every array in nested tuples, lists and dictionaries."""
    if isinstance(thing, np.ndarray):
        return [thing]
    parts = thing.values() if isinstance(thing, dict) else thing if isinstance(thing, (tuple, list)) else ()
    return [array for part in parts for array in arrays_in(part)]


# Against torch --------------------------------------------------------------------------------------------------------


@both_dtypes
@all_cases
def test_out_and_gradients_are_those_of_torch(impl, draw, name, make, dtype):
    arguments = cast(make(draw), dtype)
    result = run(impl, name, arguments, draw=draw)
    assert_all_near(result, by_torch(name, arguments, result.dout), dtype)


@both_dtypes
@pytest.mark.parametrize("name, make", [case for case in CASES if case.id.startswith("batchnorm")])
def test_batchnorms_running_statistics_are_those_of_torch(impl, draw, name, make, dtype):
    x, scale, shift, mean, var, training, *options = arguments = cast(make(draw), dtype)
    momentum, epsilon = options or (0.1, 1e-5)
    wanted_mean, wanted_var = torch.tensor(mean.astype("f8")), torch.tensor(var.astype("f8"))
    F.batch_norm(torch.tensor(x.astype("f8")), wanted_mean, wanted_var, None, None, training, momentum, epsilon)
    _, cache = impl.batchnorm_forward(*arguments)
    running = impl.batchnorm_running(cache)
    for actual, wanted in zip(running, (wanted_mean, wanted_var), strict=True):
        assert_near(actual, wanted.numpy(), dtype)
        assert not any(np.shares_memory(actual, other) for other in (x, scale, shift, mean, var))


@both_dtypes
def test_the_softmax_loss_is_koch_softmax_loss(impl, draw, dtype):
    characters = np.array([[0, 0, 0, 1, 1, 2], [3, 4, 3, 4, 5, 5]])
    h, alpha, bias = cast((signed(draw, 2, 6, 8), signed(draw, 1, 8), signed(draw, 1)), dtype)
    alpha[alpha == 0] = 0.5  # where koch.py's way has no gradient
    logits, join = impl.l1_join_forward(h[:, :, None], h[:, None], alpha, bias)
    loss, cache = impl.softmax_cross_entropy_forward(logits, characters[:, :, None] == characters[:, None])
    dlogits = as_tuple(impl.softmax_cross_entropy_backward(1.0, cache))[0]
    dh1, dh2, dalpha, _ = impl.l1_join_backward(dlogits, join)

    net = koch.SiameseNet(35).double()
    net.join = torch.nn.Linear(8, 1).double()
    net.join.weight.data, net.join.bias.data = torch.tensor(alpha.astype("f8")), torch.tensor(bias.astype("f8"))
    tensor = torch.tensor(h.astype("f8"), requires_grad=True)
    wanted = koch.softmax_loss(net, tensor, torch.tensor(characters))
    wanted.backward()
    assert_near(loss, wanted.item(), dtype)
    assert_near(dh1[:, :, 0] + dh2[:, 0], tensor.grad.numpy(), dtype)
    assert_near(dalpha, net.join.weight.grad.numpy(), dtype)


def test_labels_may_be_bool_or_integers(impl, draw):
    logits, same = bce(9, draw)
    scores, pairs = softmax(2, (0, 0, 1, 1), draw)
    wanted = run(impl, "bce_with_logits", (logits, same))
    for dtype in (bool, np.int64, np.uint8):
        assert_same(run(impl, "bce_with_logits", (logits, same.astype(dtype)), wanted.dout), wanted)
    wanted = run(impl, "softmax_cross_entropy", (scores, pairs))
    for dtype in (np.int64, np.float64):
        assert_same(run(impl, "softmax_cross_entropy", (scores, pairs.astype(dtype)), wanted.dout), wanted)


def test_a_loss_that_is_weighted_has_gradients_that_are_weighted(impl, draw):
    for layer in ("bce_with_logits", "softmax_cross_entropy"):
        name, make = FIRST[layer].values
        arguments = cast(make(draw), "float32")
        once, thrice = (run(impl, name, arguments, dout) for dout in (1.0, 3.0))  # plain numbers
        for single, triple in zip(once.gradients, thrice.gradients):
            np.testing.assert_allclose(3 * single, triple, rtol=1e-6)
            assert single.dtype == triple.dtype == np.float32


# By hand --------------------------------------------------------------------------------------------------------------


def test_a_convolution_by_hand_is_not_flipped(impl):
    x = np.arange(1.0, 10).reshape(1, 1, 3, 3)
    w = np.array([[[[1.0, 2], [3, -4]]]])
    out, cache = impl.conv2d_forward(x, w, np.array([10.0]))
    rows = [10 + 1 + 4 + 12 - 20, 10 + 2 + 6 + 15 - 24], [10 + 4 + 10 + 21 - 32, 10 + 5 + 12 + 24 - 36]
    assert out.tolist() == [[[*rows]]]
    dx, dw, db = impl.conv2d_backward(np.array([[[[1.0, 0], [0, 2]]]]), cache)
    assert dx.tolist() == [[[[1, 2, 0], [3, -4 + 2, 4], [0, 6, -8]]]]
    assert dw.tolist() == [[[[1 + 2 * 5, 2 + 2 * 6], [4 + 2 * 8, 5 + 2 * 9]]]]
    assert db.tolist() == [3]


def test_a_convolution_by_hand_adds_over_channels_and_keeps_filters_and_images_apart(impl):
    x = np.array([[[[1.0]], [[2.0]]], [[[3.0]], [[4.0]]]])  # two images of two channels of one pixel
    w = np.array([[[[10.0]], [[100.0]]], [[[-1.0]], [[0.0]]]])
    out, cache = impl.conv2d_forward(x, w)
    assert out.reshape(2, 2).tolist() == [[210, -1], [430, -3]]
    dx, dw, db = impl.conv2d_backward(np.array([[1.0, 0], [0, 5]]).reshape(2, 2, 1, 1), cache)
    assert dx.reshape(2, 2).tolist() == [[10, 100], [-5, 0]]
    assert dw.reshape(2, 2).tolist() == [[1, 2], [15, 20]]
    assert db is None


def test_a_pool_by_hand_sends_the_gradient_to_the_first_maximum_and_leaves_out_odd_lines(impl):
    x = np.array([[[[1.0, 1, 0, 3, 9], [1, 0, 2, 3, 9], [0, 0, -2, -1, 9], [0, 0, -1, -1, 9], [9, 9, 9, 9, 9]]]])
    out, cache = impl.maxpool2x2_forward(x)
    assert out.tolist() == [[[[1, 3], [0, -1]]]]
    dx = as_tuple(impl.maxpool2x2_backward(np.array([[[[1.0, 2], [3, 4]]]]), cache))[0]
    rows = [[1, 0, 0, 2, 0], [0, 0, 0, 0, 0], [3, 0, 0, 4, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert dx.tolist() == [[rows]]


def test_the_cross_entropy_by_hand(impl):
    loss, cache = impl.bce_with_logits_forward(np.array([0.0, math.log(3)]), np.array([1.0, 0.0]))
    assert loss == pytest.approx((math.log(2) + math.log(4)) / 2, rel=1e-14)  # p is 1/2 and 3/4
    np.testing.assert_allclose(as_tuple(impl.bce_with_logits_backward(1.0, cache))[0], [-0.25, 0.375], rtol=1e-14)


def test_the_softmax_loss_by_hand(impl):
    same = np.array([[[True, True, False], [True, True, False], [False, False, True]]])
    logits = np.log([[[7.0, 3, 1], [1, 7, 4], [7, 7, 7]]])  # the sevens count nothing
    loss, cache = impl.softmax_cross_entropy_forward(logits, same)
    assert loss == pytest.approx((math.log(4 / 3) + math.log(5)) / 2, rel=1e-14)
    dlogits = as_tuple(impl.softmax_cross_entropy_backward(1.0, cache))[0]
    wanted = [[[0, -1 / 8, 1 / 8], [-2 / 5, 0, 2 / 5], [0, 0, 0]]]
    np.testing.assert_allclose(dlogits, wanted, rtol=1e-14, atol=1e-16)


def test_batchnorm_by_hand(impl):
    x, ones, nothing = np.array([[1.0], [5.0]]), np.ones(1), np.zeros(1)
    out, cache = impl.batchnorm_forward(x, 2 * ones, 3 * ones, nothing, ones, True, 0.1, 0.0)
    assert out.tolist() == [[1], [5]]  # mean 3, variance 4, unbiased 8
    mean, var = impl.batchnorm_running(cache)
    assert mean == pytest.approx(0.3) and var == pytest.approx(0.9 + 0.8)


def test_the_slope_at_0_is_0(impl):
    _, cache = impl.relu_forward(np.array([0.0, -0.0, 1.0, -1.0]))
    assert as_tuple(impl.relu_backward(np.full(4, 5.0), cache))[0].tolist() == [0, 0, 5, 0]
    h = np.array([[1.0, 0.0, 2.0]])
    _, cache = impl.l1_join_forward(h, np.array([[1.0, 0.0, 1.0]]), np.full((1, 3), 7.0), np.zeros(1))
    dh1, dh2, *_ = impl.l1_join_backward(np.array([1.0]), cache)
    assert dh1.tolist() == [[0, 0, 7]] and dh2.tolist() == [[0, 0, -7]]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", DTYPES)
def test_saturated_values_give_no_infinity_and_no_warning(impl, dtype):
    x = np.array(LONG * 2, dtype)
    same = np.repeat([0, 1], len(LONG))
    results = [run(impl, "sigmoid", (x,)), run(impl, "bce_with_logits", (x, same))]
    pairs = np.kron(np.eye(2), np.ones((2, 2)))[None] > 0
    for a in (0, 1000, -1000):
        logits = np.array([[[0, a, -a, 5], [a, 0, 1, a], [-a, 0, 0, a], [a, a, -a, 0]]], dtype)
        results.append(run(impl, "softmax_cross_entropy", (logits, pairs)))
    assert all(np.isfinite(array).all() for result in results for array in (result.out, *result.gradients))


def test_a_pair_far_from_its_label_keeps_its_slope_in_float32(impl):
    logits, same = np.array([-30, 30, 100], np.float32), np.array([1, 0, 0])
    result = run(impl, "bce_with_logits", (logits, same), 1.0)
    np.testing.assert_allclose(result.gradients[0] * 3, [-1, 1, 1], rtol=1e-6)
    assert result.out == pytest.approx(160 / 3, rel=1e-6)
    sure = run(impl, "bce_with_logits", (np.array([30, -30], np.float32), np.array([1, 0])), 1.0)
    assert sure.out == pytest.approx(math.exp(-30), rel=1e-4, abs=0)


def test_an_alphabet_without_different_pairs_adds_nothing_to_the_softmax_loss(impl, draw):
    logits, same = softmax(1, (0, 0, 1), draw)
    wanted = run(impl, "softmax_cross_entropy", (logits, same), 1.0)
    both = np.concatenate([logits, draw.standard_normal((1, 3, 3))]), np.concatenate([same, np.ones((1, 3, 3), bool)])
    result = run(impl, "softmax_cross_entropy", both, 1.0)
    assert result.out == pytest.approx(wanted.out * 2 / 8)  # two same pairs count, and six more whose loss is 0
    np.testing.assert_allclose(result.gradients[0], np.concatenate([wanted.gradients[0] * 2 / 8, np.zeros((1, 3, 3))]))


def test_a_nan_is_not_lost(impl):
    x = np.arange(32.0).reshape(1, 2, 4, 4)
    for place in ((0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 0), (0, 0, 1, 1)):
        spoilt = x.copy()
        spoilt[place] = np.nan
        for name, others in (("maxpool2x2", ()), ("relu", ()), ("sigmoid", ()), ("conv2d", (np.ones((1, 2, 2, 2)),))):
            assert np.isnan(run(impl, name, (spoilt, *others)).out[0, 0, :2, :2]).any()


# Differences ----------------------------------------------------------------------------------------------------------


def far_from_kinks(name, arguments, draw):
    """Move inputs to where a difference does not cross a kink: |x|, or the pixels of a pool, at least 0.01 apart."""
    layer, (x, *others) = name.partition("-")[0], arguments
    if layer == "relu":
        x = np.sign(draw.standard_normal(x.shape)) * draw.uniform(0.01, 2, x.shape)
    elif layer == "maxpool2x2":
        x = 0.01 * draw.permutation(x.size).reshape(x.shape) - 1
    elif layer == "l1_join":
        both = np.broadcast_shapes(x.shape, others[0].shape)
        if x.shape == both:
            x = others[0] + np.sign(draw.standard_normal(both)) * draw.uniform(0.01, 2, both)
        else:
            x = 0.01 * draw.permutation(x.size).reshape(x.shape)
            others[0] = 0.01 * draw.permutation(others[0].size).reshape(others[0].shape) + 0.005
    return (x, *others)


SMOOTH = [case for case in FEW if not any(word in case.id for word in ("extremes", "saturated", "nearly", "far"))]


@pytest.mark.parametrize("name, make", SMOOTH)
def test_gradients_agree_with_differences(impl, draw, name, make):
    layer, arguments = name.partition("-")[0], far_from_kinks(name, make(draw), draw)
    n = TORCH[layer][1] if layer != "conv2d" else len(arguments)
    others = arguments[n:]  # no gradient belongs to labels, running statistics and settings
    forward, backward = getattr(impl, f"{layer}_forward"), getattr(impl, f"{layer}_backward")
    verdict = gradcheck(lambda *inputs: forward(*inputs, *others), backward, *arguments[:n])
    assert all(error < 1e-6 for error in verdict.errors), f"{name} {verdict}"


# No state, no views, nothing changed in place -------------------------------------------------------------------------


@few_cases
def test_neither_inputs_nor_dout_are_changed(impl, draw, name, make):
    arguments = make(draw)
    before = copies(arguments)
    result = run(impl, name, arguments, draw=np.random.default_rng(1))
    same_dout = slopes(np.shape(result.out), np.float64, np.random.default_rng(1))
    assert np.array_equal(result.dout, same_dout)
    for array, right in zip(arguments, before):
        assert np.array_equal(array, right)


@few_cases
def test_two_forward_passes_before_two_backward_passes_give_each_its_own_gradients(impl, draw, name, make):
    layer = name.partition("-")[0]
    both = make(draw), make(draw)
    passes = [getattr(impl, f"{layer}_forward")(*arguments) for arguments in both]
    for arguments, (out, cache) in zip(both, passes):
        dout = slopes(np.shape(out), np.float64, draw)
        gradients = as_tuple(getattr(impl, f"{layer}_backward")(dout, cache))
        assert_all_near(Result(out, gradients), by_torch(name, arguments, dout), "float64")


@few_cases
def test_results_own_their_memory_and_stay_as_they_are_when_the_layer_is_called_again(impl, draw, name, make):
    arguments = make(draw)
    first = run(impl, name, arguments)
    results, before = arrays_in([first.out, first.gradients]), copies((first.out, *first.gradients))
    second = run(impl, name, make(draw))
    for before_call, after_call in zip(before, (first.out, *first.gradients)):
        assert np.array_equal(before_call, after_call)
    for i, result in enumerate(results):
        others = [*arguments, first.dout, first.cache, results[:i], second.out, second.gradients]
        assert not any(np.shares_memory(result, other) for other in arrays_in(others))


@few_cases
def test_a_result_changed_in_place_changes_no_gradient(impl, draw, name, make):
    layer, arguments = name.partition("-")[0], make(draw)
    wanted = run(impl, name, arguments)
    out, cache = getattr(impl, f"{layer}_forward")(*arguments)
    for spoilt in arrays_in(out):
        spoilt[...] = np.nan
    for _ in range(2):  # the same each time, from one cache
        gradients = as_tuple(getattr(impl, f"{layer}_backward")(wanted.dout, cache))
        assert_same(Result(0.0, gradients), Result(0.0, wanted.gradients))
        for spoilt in arrays_in(gradients):
            spoilt[...] = np.nan


def laid_out(array, layout):
    """Return an equal array that lies otherwise in memory, or may not be written."""
    if not isinstance(array, np.ndarray) or not array.ndim:
        return array
    if layout == "transposed":
        return np.ascontiguousarray(array.T).T
    if layout == "read_only":
        array = array.copy()
        array.setflags(write=False)
        return array
    steps = (slice(None, None, -1 if layout == "reversed" else 2),) * array.ndim
    if layout == "reversed":
        return array[steps].copy()[steps]
    strided = np.full([2 * n for n in array.shape], np.nan if array.dtype.kind == "f" else 0, array.dtype)
    strided[steps] = array
    return strided[steps]


@pytest.mark.parametrize("layout", ["transposed", "strided", "reversed", "read_only"])
@few_cases
def test_inputs_and_dout_may_lie_in_any_order_in_memory_and_be_read_only(impl, draw, name, make, layout):
    arguments = make(draw)
    wanted = run(impl, name, arguments)
    moved = tuple(laid_out(a, layout) for a in arguments)
    assert_same(run(impl, name, moved, laid_out(wanted.dout, layout)), wanted)


@few_cases
def test_dout_may_be_one_number_everywhere(impl, draw, name, make):
    arguments = make(draw)
    out = run(impl, name, arguments).out
    ones = np.broadcast_to(np.float64(2.0), np.shape(out))  # as the slope of a sum comes out: no memory of its own
    assert_same(run(impl, name, arguments, ones), run(impl, name, arguments, ones.copy()))


# Wrong arguments ------------------------------------------------------------------------------------------------------


def zeros(*shape):
    return np.zeros(shape)


WRONG = {  # layer: arguments that do not fit, and which of them the error names
    "conv2d-channels": ((zeros(2, 3, 5, 5), zeros(4, 2, 3, 3)), 2),
    "conv2d-too_high": ((zeros(2, 3, 2, 5), zeros(4, 3, 3, 3)), 2),
    "conv2d-too_wide": ((zeros(2, 3, 5, 2), zeros(4, 3, 3, 3)), 2),
    "conv2d-axes": ((zeros(3, 5, 5), zeros(4, 3, 3, 3)), 2),
    "conv2d-bias": ((zeros(2, 3, 5, 5), zeros(4, 3, 3, 3), zeros(3)), 3),
    "conv2d-no_images": ((zeros(0, 3, 5, 5), zeros(4, 3, 3, 3)), 2),
    "pad-axes": ((zeros(5, 5),), 1),
    "maxpool2x2-axes": ((zeros(3, 4, 4),), 1),
    "maxpool2x2-too_small": ((zeros(1, 1, 1, 4),), 1),
    "linear-inputs": ((zeros(2, 3), zeros(4, 5), zeros(4)), 3),
    "linear-bias": ((zeros(2, 3), zeros(4, 3), zeros(3)), 3),
    "linear-one_bias": ((zeros(2, 3), zeros(4, 3), zeros(1)), 3),
    "batchnorm-scale": ((zeros(2, 3), zeros(2), zeros(3), zeros(3), zeros(3)), 2),
    "batchnorm-shift": ((zeros(2, 3), zeros(3), zeros(1), zeros(3), zeros(3)), 3),
    "batchnorm-mean": ((zeros(2, 3), zeros(3), zeros(3), zeros(2), zeros(3)), 4),
    "batchnorm-axes": ((zeros(2, 3, 4), *[zeros(3)] * 4), 2),
    "batchnorm-one_value": ((zeros(1, 3), *[zeros(3)] * 4), 1),
    "l1_join-features": ((zeros(2, 3), zeros(2, 4), zeros(1, 3), zeros(1)), 4),
    "l1_join-alpha": ((zeros(2, 3), zeros(2, 3), zeros(3), zeros(1)), 4),
    "l1_join-bias": ((zeros(2, 3), zeros(2, 3), zeros(1, 3), zeros(2)), 4),
    "l1_join-pairs": ((zeros(2, 3), zeros(4, 3), zeros(1, 3), zeros(1)), 2),
    "bce_with_logits-labels": ((zeros(3), zeros(4)), 2),
    "bce_with_logits-none": ((zeros(0), zeros(0)), 1),
    "softmax_cross_entropy-labels": ((zeros(1, 3, 3), zeros(1, 3, 4)), 2),
    "softmax_cross_entropy-axes": ((zeros(3, 3), zeros(3, 3)), 1),
    "softmax_cross_entropy-no_same_pair": ((zeros(1, 3, 3), np.eye(3)[None]), 1),
}


@pytest.mark.parametrize("name", WRONG)
def test_shapes_that_do_not_fit_raise_an_error_that_names_them(impl, name):
    arguments, n_named = WRONG[name]
    with pytest.raises(ValueError) as error:
        getattr(impl, f"{name.partition('-')[0]}_forward")(*arguments)
    text = str(error.value).replace(" ", "")  # NumPy's own errors have no spaces
    assert all(str(a.shape).replace(" ", "") in text for a in arguments[:n_named])


SEVERAL = ("conv2d", "linear", "batchnorm", "l1_join")  # layers of several float arrays


@pytest.mark.parametrize("layer", SEVERAL)
def test_dtypes_that_differ_raise_an_error_that_names_them(impl, draw, layer):
    name, make = FIRST[layer].values
    arguments = make(draw)
    for i, argument in enumerate(arguments):
        if is_float(argument):
            mixed = (*arguments[:i], argument.astype(np.float32), *arguments[i + 1 :])
            with pytest.raises(ValueError, match="float32") as error:
                getattr(impl, f"{layer}_forward")(*mixed)
            assert "float64" in str(error.value) and str(argument.shape) in str(error.value)


@pytest.mark.parametrize("layer", ["conv2d", "pad", "maxpool2x2", "relu", "sigmoid", "linear", "bce_with_logits"])
def test_whole_numbers_and_half_precision_are_no_input(impl, draw, layer):
    name, make = FIRST[layer].values
    for dtype in ("int64", "uint8", "float16"):
        with pytest.raises(ValueError, match=dtype):
            getattr(impl, f"{layer}_forward")(*cast(make(draw), dtype))


WITH_SHAPE = ("conv2d", "maxpool2x2", "relu", "sigmoid", "linear", "batchnorm", "l1_join")


@pytest.mark.parametrize("layer", WITH_SHAPE)
def test_a_dout_of_a_wrong_shape_raises_an_error_that_names_it(impl, draw, layer):
    name, make = FIRST[layer].values
    out, cache = getattr(impl, f"{layer}_forward")(*make(draw))
    for axis in range(out.ndim):
        for wrong in (out[(slice(None),) * axis + (slice(-1),)], np.concatenate([out, out], axis)):
            with pytest.raises(ValueError) as error:
                getattr(impl, f"{layer}_backward")(wrong, cache)
            assert str(wrong.shape) in str(error.value)
    with pytest.raises(ValueError):
        getattr(impl, f"{layer}_backward")(out[..., None], cache)  # as many numbers, in another shape


@pytest.mark.parametrize("layer", ["conv2d", "sigmoid", "linear", "batchnorm", "l1_join"])
def test_a_dout_of_another_dtype_raises_an_error_that_names_both(impl, draw, layer):
    name, make = FIRST[layer].values
    out, cache = getattr(impl, f"{layer}_forward")(*make(draw))
    with pytest.raises(ValueError, match="float32") as error:
        getattr(impl, f"{layer}_backward")(out.astype(np.float32), cache)
    assert "float64" in str(error.value)

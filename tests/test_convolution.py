"""reference_numpy's ladder of convolutions, each rung against the one below; the products under them; Numba."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_layers import BIG_CONV_SHAPES, CONV_SHAPES, DTYPES, binary, compiled, laid_out, signed
from test_layers import pytestmark as pytestmark

import reference_numpy
from reference_numpy import convolution, jit, layers, products
from reference_numpy.convolution import RUNGS

PACKAGE = Path(reference_numpy.__path__[0])
ALL_SHAPES = CONV_SHAPES | BIG_CONV_SHAPES
shapes = pytest.mark.parametrize(
    "shape", [pytest.param(s, id=name, marks=[compiled][: name in BIG_CONV_SHAPES]) for name, s in ALL_SHAPES.items()]
)
rungs = pytest.mark.parametrize("rung", RUNGS)
both_dtypes = pytest.mark.parametrize("dtype", DTYPES)
steps = pytest.mark.parametrize("lower, upper", list(zip(list(RUNGS), list(RUNGS)[1:])))


def inputs(draw, shape, dtype, pixels=signed):
    """Return x, w and dout."""
    n, c, h, w, f, kh, kw = shape
    arrays = pixels(draw, n, c, h, w), signed(draw, f, c, kh, kw), signed(draw, n, f, h - kh + 1, w - kw + 1)
    return tuple(array.astype(dtype) for array in arrays)


def results(rung, x, w, dout):
    forward, dx, dw = RUNGS[rung]
    return forward(x, w), dx(dout, w), dw(dout, x)


def by_torch(x, w, dout):
    x, w, dout = (torch.tensor(array.astype(np.float64)) for array in (x, w, dout))
    out = F.conv2d(x.requires_grad_(), w.requires_grad_())
    return out.detach().numpy(), *(g.numpy() for g in torch.autograd.grad(out, (x, w), dout))


def assert_near(actual, wanted, dtype):
    for array, right in zip(actual, wanted, strict=True):
        assert array.dtype == dtype and array.shape == right.shape and array.flags.c_contiguous
        largest = np.abs(right).max()
        rtol, atol = (1e-10, 1e-12 * largest) if dtype == "float64" else (0, 1e-5 * largest)
        np.testing.assert_allclose(array, right, rtol, atol)


# The rungs ------------------------------------------------------------------------------------------------------------


@both_dtypes
@steps
@shapes
def test_each_rung_computes_what_the_one_below_does(draw, shape, lower, upper, dtype):
    if lower == "loops" and shape in BIG_CONV_SHAPES.values():
        lower, upper = "taps", "numba"  # plain Python would take minutes
    arrays = inputs(draw, shape, dtype)
    assert_near(results(upper, *arrays), results(lower, *arrays), dtype)


@both_dtypes
@shapes
def test_the_top_rung_computes_what_torch_does(draw, shape, dtype):
    arrays = inputs(draw, shape, dtype)
    assert_near(results("blocked", *arrays), by_torch(*arrays), dtype)


@rungs
def test_every_rung_computes_what_torch_does_with_drawings(draw, rung):
    arrays = inputs(draw, CONV_SHAPES["one_more_than_four"], "float64", binary)
    assert_near(results(rung, *arrays), by_torch(*arrays), "float64")


def test_the_shapes_of_these_tests_cross_every_border_of_the_tiles():
    crossed = set()
    for n, c, h, w, f, kh, kw in CONV_SHAPES.values():
        oh, ow = h - kh + 1, w - kw + 1
        for name, outputs in (("forward", convolution.TILE), ("dw", convolution.DW_TILE)):
            images, rows = convolution.tiling(n, oh, ow, outputs)
            crossed |= {f"{name}: rows"} if rows < oh and oh % rows else set()
            crossed |= {f"{name}: long rows"} if ow > outputs else set()
            crossed |= {f"{name}: images"} if 1 < images < n and n % images else set()
        images, rows = convolution.tiling(n, oh, ow, convolution.TILE)
        line = images * ow
        in_part = convolution.SHIFTS // ((products.vectors(line * rows) + products.vectors(line * (kh - 1))) * kw)
        crossed |= {"channels"} if max(4, in_part // 4 * 4) < c and c % 4 else set()
        crossed |= {"taps"} if c * kh * kw > convolution.DW_TAPS and c * kh * kw % convolution.DW_TAPS else set()
    assert crossed >= {"channels", "taps", "forward: rows", "forward: images", "dw: images", "dw: long rows"}


def whole_numbers(draw, shape):
    """Large numbers that nearly cancel: in float64 every sum is exact, in float32 nothing is left of it."""
    n, c, h, w, f, kh, kw = shape
    x = draw.integers(-3, 4, (n, c, h, w)) + (1 << 24) * draw.integers(-1, 2, (n, c, h, w))
    filters = draw.integers(-3, 4, (f, c, kh, kw)) + (1 << 10) * draw.integers(-1, 2, (f, c, kh, kw))
    dout = draw.integers(-3, 4, (n, f, h - kh + 1, w - kw + 1)) + (1 << 12)
    return x, filters, dout


def in_integers(x, w, dout):
    windows = np.lib.stride_tricks.sliding_window_view
    (kh, kw), full = w.shape[2:], np.pad(dout, ((0, 0), (0, 0), *((k - 1, k - 1) for k in w.shape[2:])))
    out = np.einsum("ncyzij,fcij->nfyz", windows(x, (kh, kw), (2, 3)), w)
    dx = np.einsum("nfyzij,fcij->ncyz", windows(full, (kh, kw), (2, 3)), w[:, :, ::-1, ::-1])
    return out, dx, np.einsum("ncijyz,nfyz->fcij", windows(x, dout.shape[2:], (2, 3)), dout)


@rungs
@pytest.mark.parametrize("name", ["one_more_than_four", "rows_in_three_tiles", "several_tiles_of_images"])
def test_sums_in_float64_are_exact_where_they_can_be(draw, rung, name):
    arrays = whole_numbers(draw, CONV_SHAPES[name])
    wanted = in_integers(*arrays)
    assert all(array.dtype == np.int64 and np.abs(array).max() < 1 << 53 for array in wanted)
    for array, right in zip(results(rung, *(array.astype(np.float64) for array in arrays)), wanted):
        assert np.array_equal(array, right)


@compiled
@pytest.mark.parametrize("rung", ["loops", "numba"])
def test_the_plain_loops_keep_their_sums_in_float64(draw, rung):
    arrays = inputs(draw, (3, 4, 9, 8, 5, 3, 3), "float32")
    wanted = by_torch(*arrays)
    for array, right in zip(results(rung, *arrays), wanted):
        assert np.abs(array - right).max() <= 2**-24 * np.abs(right).max()  # rounded once, at the end


@rungs
def test_no_rung_changes_its_inputs_or_keeps_its_results(draw, rung):
    arrays, others = (inputs(draw, CONV_SHAPES["one_more_than_four"], "float64") for _ in range(2))
    before = [array.copy() for array in arrays]
    first = results(rung, *arrays)
    kept = [array.copy() for array in first]
    second = results(rung, *others)
    assert all(np.array_equal(*pair) for pair in zip((*arrays, *first), (*before, *kept)))
    assert not any(np.shares_memory(one, other) for one in first for other in (*second, *arrays))


@rungs
def test_the_layer_computes_with_the_rung_that_it_is_told_to(draw, rung, monkeypatch):
    x, w, dout = inputs(draw, CONV_SHAPES["one_image"], "float64")
    asked = []
    noting = [lambda *a, i=i, f=function: asked.append(i) or f(*a) for i, function in enumerate(RUNGS[rung])]
    monkeypatch.setitem(layers.RUNGS, rung, tuple(noting))
    out, cache = layers.conv2d_forward(x, w, None, rung)
    dx, dw, db = layers.conv2d_backward(dout, cache)
    assert db is None and sorted(asked) == [0, 1, 2]
    assert_near((out, dx, dw), by_torch(x, w, dout), "float64")


# Memory that was used before ------------------------------------------------------------------------------------------


@pytest.fixture
def unfilled(monkeypatch):
    """Where nothing is compiled: let arrays that are not filled hold NaN."""
    if numba.config.DISABLE_JIT:
        monkeypatch.setattr(np, "empty", lambda shape, dtype=float: np.full(shape, np.nan, dtype))
        monkeypatch.setattr(np, "empty_like", lambda array: np.full(array.shape, np.nan, array.dtype))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@both_dtypes
@shapes
def test_what_memory_held_before_never_leaks_into_a_result(draw, shape, dtype, unfilled):
    arrays = inputs(draw, shape, dtype)
    for rung in ("numba", "blocked"):
        results(rung, *(array * np.nan for array in arrays))  # leaves NaN in the memory that the next call gets
        assert_near(results(rung, *arrays), by_torch(*arrays), dtype)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("M, K, L", [(1, 1, 1), (5, 3, 17), (130, 2, 3), (3, 131, 2), (2, 3, 259)])
def test_what_memory_held_before_never_leaks_into_a_product(draw, M, K, L, unfilled):
    a, b = signed(draw, M, K), signed(draw, K, L)
    products.product(a * np.nan, b * np.nan)
    np.testing.assert_allclose(products.product(a, b), np.einsum("mk,kl->ml", a, b), rtol=1e-12, atol=1e-14)


def test_an_images_nan_stays_with_that_image(draw):
    x, w, dout = inputs(draw, CONV_SHAPES["three_images_in_a_tile"], "float64")
    clean = results("blocked", x, w, dout)
    x[1], dout[1] = np.nan, np.inf
    out, dx, _ = results("blocked", x, w, dout)
    assert np.isnan(out[1]).all() and not np.isfinite(dx[1]).all()
    for array, right in ((out, clean[0]), (dx, clean[1])):
        assert np.array_equal(np.delete(array, 1, 0), np.delete(right, 1, 0))


# Products -------------------------------------------------------------------------------------------------------------

SIZES = [(1, 1, 1), (4, 4, 16), (3, 5, 7), (5, 4, 15), (6, 7, 17), (7, 6, 33), (9, 3, 1), (2, 130, 5), (130, 2, 5),
         (2, 3, 259), (4, 128, 256), (128, 4, 4), (129, 5, 3)]  # fmt: skip
BIG_SIZES = [pytest.param(*size, marks=compiled) for size in ((257, 129, 513), (131, 300, 70), (64, 1000, 31))]


def relative(actual, wanted):
    return np.abs(actual - wanted).max() / np.abs(wanted).max()


@both_dtypes
@pytest.mark.parametrize("M, K, L", SIZES + BIG_SIZES)
def test_product_is_the_product_of_matrices_transposed_or_not(draw, M, K, L, dtype):
    a, b = draw.standard_normal((M, K)).astype(dtype), draw.standard_normal((K, L)).astype(dtype)
    wanted = a.astype(np.float64) @ b.astype(np.float64)
    for left in (a, laid_out(a, "transposed")):
        for right in (b, laid_out(b, "transposed")):
            c = products.product(left, right)
            assert c.dtype == dtype and c.shape == (M, L) and c.flags.c_contiguous
            assert relative(c, wanted) < (1e-13 if dtype == "float64" else 1e-5)


@both_dtypes
@pytest.mark.parametrize("M, K, L", [(1, 1, 1), (4, 4, 16), (5, 6, 7), (7, 5, 33), (3, 8, 16), (8, 3, 2), (6, 7, 5)])
def test_add_product_adds_to_its_rows_and_touches_nothing_between(draw, M, K, L, dtype):
    out, before = np.full(M * (L + 3) + 5, 7.0, dtype), draw.standard_normal((M, L)).astype(dtype)
    out_rows, b_rows = 2 + draw.permutation(M) * (L + 3), draw.permutation(K) * (1 + L // 2)  # rows of b overlap
    a = draw.standard_normal((M, K)).astype(dtype)
    b = np.full(b_rows.max() + L + 4, np.nan, dtype)
    b[: b_rows.max() + L] = draw.standard_normal(b_rows.max() + L)
    where = out_rows[:, None] + np.arange(L)  # (M, L)
    out[where] = before
    products.add_product(out, out_rows, a, b, b_rows, L)
    wanted = before + a.astype(np.float64) @ b[b_rows[:, None] + np.arange(L)].astype(np.float64)
    assert relative(out[where], wanted) < (1e-13 if dtype == "float64" else 1e-5)
    assert (np.delete(out, where.ravel()) == 7).all()


@both_dtypes
@pytest.mark.parametrize("M, K, L", [(4, 4, 1), (4, 8, 16), (8, 4, 7), (12, 8, 33)])
def test_add_dots_adds_the_dot_products_of_all_rows(draw, M, K, L, dtype):
    a, out = draw.standard_normal((M, L)).astype(dtype), draw.standard_normal((M, K)).astype(dtype)
    b_rows = draw.permutation(K) * (1 + L // 2)
    b = draw.standard_normal(b_rows.max() + L).astype(dtype)
    wanted = out + a.astype(np.float64) @ b[b_rows[:, None] + np.arange(L)].T.astype(np.float64)
    products.add_dots(out, a, b, b_rows)
    assert relative(out, wanted) < (1e-13 if dtype == "float64" else 1e-5)


@both_dtypes
def test_aligned_arrays_have_their_shape_and_begin_at_a_cache_line(dtype):
    for rows, columns in ((1, 16), (3, 32), (7, 48)):
        array = products.aligned(rows, columns, np.zeros(1, dtype))
        assert array.shape == (rows, columns) and array.dtype == dtype and array.ctypes.data % 64 == 0


# Numba ----------------------------------------------------------------------------------------------------------------


def kernels():
    """Yield the syntax tree of every function that is compiled."""
    for path in sorted(PACKAGE.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                if any("kernel" in ast.unparse(d) or "jit" in ast.unparse(d) for d in node.decorator_list):
                    yield path, node


def test_compiled_functions_use_no_product_that_needs_scipy():
    names, forbidden = [], {"dot", "matmul", "vdot", "inner", "outer", "kron", "linalg", "tensordot"}
    for path, function in kernels():
        names.append(function.name)
        for node in ast.walk(function):
            where = f"{path.name}: {function.name}"
            assert not isinstance(node, ast.MatMult), where
            assert not (isinstance(node, ast.Attribute) and node.attr in forbidden), where
            assert not (isinstance(node, ast.Name) and node.id in forbidden), where
    assert {"forward_numba", "dw_blocked", "product", "add_product", "largest", "moments"} <= set(names)


def test_what_is_parallel_is_compiled_as_parallel():
    for path, function in kernels():
        parallel = any("parallel=True" in ast.unparse(decorator) for decorator in function.decorator_list)
        assert parallel == ("prange(" in ast.unparse(function)), f"{path.name}: {function.name}"


def test_a_kernel_works_where_its_machine_code_cannot_be_kept(monkeypatch):
    asked, njit = [], numba.njit

    def unwritable(*function, **options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        asked.append(options)
        return njit(*function, **options)

    monkeypatch.setattr(numba, "njit", unwritable)
    assert jit.kernel(lambda x: x + 1)(1) == 2
    assert jit.kernel(fastmath={"contract"})(lambda x: 2 * x)(3.0) == 6
    assert {"fastmath": {"contract"}} in asked


def test_a_kernel_without_a_source_file_works():
    space = {}
    exec("def double(x):\n    return 2 * x", space)  # Numba finds no folder for its machine code
    assert jit.kernel(space["double"])(21) == 42


@compiled
@pytest.mark.thorough
def test_no_result_depends_on_the_number_of_threads():
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "threads.py"]
    environment = os.environ | {"NUMBA_NUM_THREADS": "2", "NUMBA_DISABLE_JIT": "0"}
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0 and "13 passed" in done.stdout, done.stdout[-3000:]

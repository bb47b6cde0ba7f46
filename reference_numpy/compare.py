"""Compare implementations of the layers: the rungs of the convolution, torch, the im2col way, a student's module.

A row for each operation, shape and implementation: errors against torch in float64, the time forwards and backwards
after a warm-up, the rate, and the ratio to torch in float32 on the same number of threads. This is the only module of
the package that imports torch, and it does so when it runs.
"""

import csv
import functools
import importlib
import importlib.util
import multiprocessing
import os
import statistics
import sys
import time
import timeit
from pathlib import Path
from typing import Callable, NamedTuple

import numba
import numpy as np
from numba import prange

from . import convolution, layers
from .data import UserError
from .jit import kernel

FOLDER = Path("runs/compare")
MOST = {"loops": 1e8, "taps": 5e10, "numba": 5e10}  # floating-point operations: what has more takes minutes
BUDGET = 0.5  # seconds of calls whose median is the time
PAUSE = 0.3  # seconds between implementations: until the threads of the last one have stopped looking for work

class Case(NamedTuple):
    """Hold one operation on one shape."""

    operation: str  # the layer's name: conv2d stands for conv2d_forward and conv2d_backward
    shape: str  # in words
    make: Callable  # rng -> arguments; float64 arrays, which are cast, and others
    gradients: tuple  # names of the gradients, those of the first arguments
    small: bool = True  # False: --full alone takes it

def normal(*shapes):
    """Return a function that draws arrays of these shapes, of both signs."""
    return lambda rng: tuple(rng.standard_normal(shape) for shape in shapes)

def with_ties(*shape):
    """Return a function that draws an array of small whole numbers: ties and exact zeros are everywhere."""
    return lambda rng: (rng.integers(-2, 3, shape).astype(np.float64),)

def weighted(x, w):
    """Return a function that draws an input, weights that keep its size about as it is, and biases; x, w: shapes."""
    fan_in = np.prod(w[1:])
    return lambda rng: (rng.standard_normal(x), rng.standard_normal(w) / fan_in**0.5, rng.standard_normal(w[0]))

def logits_and_labels(rng):
    """Draw logits of pairs, and 1.0 or 0.0 for each."""
    return 10 * rng.standard_normal(128), (rng.random(128) < 0.5).astype(np.float64)

def all_pairs(rng):
    """Draw the logits of all pairs of 30 drawings of ten characters, in four alphabets; and which are the same."""
    characters = np.tile(np.arange(10).repeat(3), (4, 1))
    return rng.standard_normal((4, 30, 30)), characters[:, :, None] == characters[:, None]

DX_DW_DB = ("dx", "dw", "db")
CASES = [  # Koch's own layers among them
    Case("conv2d", "2x3x12x12, 8 filters 4x4", weighted((2, 3, 12, 12), (8, 3, 4, 4)), DX_DW_DB),
    Case("conv2d", "32x64x18x18, 64 filters 3x3", weighted((32, 64, 18, 18), (64, 64, 3, 3)), DX_DW_DB),
    Case("conv2d", "Koch's 1st: 32x1x105x105, 64 filters 10x10",
         weighted((32, 1, 105, 105), (64, 1, 10, 10)), DX_DW_DB, small=False),
    Case("conv2d", "Koch's 2nd: 32x64x48x48, 128 filters 7x7",
         weighted((32, 64, 48, 48), (128, 64, 7, 7)), DX_DW_DB, small=False),
    Case("conv2d", "Koch's 3rd: 32x128x21x21, 128 filters 4x4",
         weighted((32, 128, 21, 21), (128, 128, 4, 4)), DX_DW_DB, small=False),
    Case("conv2d", "Koch's 4th: 32x128x9x9, 256 filters 4x4",
         weighted((32, 128, 9, 9), (256, 128, 4, 4)), DX_DW_DB, small=False),
    Case("maxpool2x2", "8x16x33x32", with_ties(8, 16, 33, 32), ("dx",)),
    Case("maxpool2x2", "Koch's 1st: 32x64x96x96", with_ties(32, 64, 96, 96), ("dx",), small=False),
    Case("relu", "8x16x33x32", with_ties(8, 16, 33, 32), ("dx",)),
    Case("sigmoid", "Koch's: 32x4096", normal((32, 4096)), ("dx",)),
    Case("linear", "32x1024 -> 512", weighted((32, 1024), (512, 1024)), DX_DW_DB),
    Case("linear", "Koch's: 32x9216 -> 4096", weighted((32, 9216), (4096, 9216)), DX_DW_DB, small=False),
    Case("batchnorm", "32x64x16x16, training", lambda rng: (*normal((32, 64, 16, 16), (64,), (64,), (64,))(rng),
                                                            rng.uniform(0.5, 2, 64)), ("dx", "dscale", "dshift")),
    Case("l1_join", "Koch's: 32x4096", normal((32, 4096), (32, 4096), (1, 4096), (1,)),
         ("dh1", "dh2", "dalpha", "dbias")),
    Case("bce_with_logits", "128", logits_and_labels, ("dlogits",)),
    Case("softmax_cross_entropy", "4x30x30", all_pairs, ("dlogits",)),
]  # fmt: skip

def torch_functions():
    """Return torch's function of each operation: {name: tensors -> tensor}."""
    import torch
    import torch.nn.functional as F

    def batchnorm(x, scale, shift, mean, var):
        return F.batch_norm(x, mean.clone(), var.clone(), scale, shift, training=True)

    def softmax(logits, same):
        different = logits.masked_fill(same, -torch.inf).logsumexp(2, keepdim=True)
        itself = torch.eye(same.shape[1], dtype=torch.bool)
        return F.softplus(different - logits)[same & ~itself].mean()

    return {
        "conv2d": F.conv2d,
        "maxpool2x2": lambda x: F.max_pool2d(x, 2),
        "relu": torch.relu,
        "sigmoid": torch.sigmoid,
        "linear": F.linear,
        "batchnorm": batchnorm,
        "l1_join": lambda h1, h2, alpha, bias: F.linear((h1 - h2).abs(), alpha, bias).squeeze(-1),
        "bce_with_logits": F.binary_cross_entropy_with_logits,
        "softmax_cross_entropy": softmax,
    }

# The teaching way: all columns of the minibatch at once, and NumPy's product ------------------------------------------
# As in many courses' solutions (there in Cython): one thread copies, BLAS multiplies. Restated here to be measured.

@kernel
def im2col(x, KH, KW):
    """Return the columns (C * KH * KW, OH * OW * N) of a whole minibatch."""
    N, C, H, W = x.shape
    OH, OW = H - KH + 1, W - KW + 1
    columns = np.empty((C * KH * KW, OH * OW * N), x.dtype)
    for c in range(C):
        for y in range(OH):
            for z in range(OW):
                for i in range(KH):
                    for j in range(KW):
                        for n in range(N):
                            columns[(c * KH + i) * KW + j, (y * OW + z) * N + n] = x[n, c, y + i, z + j]
    return columns

@kernel
def col2im(columns, N, C, H, W, KH, KW):
    """Add columns to the pixels that im2col took them from: (N, C, H, W)."""
    OH, OW = H - KH + 1, W - KW + 1
    x = np.zeros((N, C, H, W), columns.dtype)
    for c in range(C):
        for y in range(OH):
            for z in range(OW):
                for i in range(KH):
                    for j in range(KW):
                        for n in range(N):
                            x[n, c, y + i, z + j] += columns[(c * KH + i) * KW + j, (y * OW + z) * N + n]
    return x

def im2col_forward(x, w, b):
    """conv2d_forward by im2col and NumPy's product."""
    (N, C, H, W), (F, _, KH, KW) = x.shape, w.shape
    columns = im2col(x, KH, KW)
    out = w.reshape(F, -1) @ columns + b[:, None]
    return out.reshape(F, H - KH + 1, W - KW + 1, N).transpose(3, 0, 1, 2), (x, w, columns)

def im2col_backward(dout, cache):
    """conv2d_backward by NumPy's product and col2im."""
    x, w, columns = cache
    flat = dout.transpose(1, 2, 3, 0).reshape(len(w), -1)
    dw = (flat @ columns.T).reshape(w.shape)
    return col2im(w.reshape(len(w), -1).T @ flat, *x.shape, *w.shape[2:]), dw, dout.sum((0, 2, 3))

# Measuring ------------------------------------------------------------------------------------------------------------

class Measured(NamedTuple):
    """Hold what one implementation gave for one case: arrays in float32, seconds; or why there is nothing."""

    out: np.ndarray = None
    gradients: tuple = ()
    forward: float = 0.0  # seconds, median
    backward: float = 0.0
    problem: str = ""

def measure(forward, backward, arguments, dout):
    """Call forward and backward, time them, and return a Measured with copies of the first results.

    As many calls as fit into BUDGET, three at least, unless one call takes longer than it.
    """
    out, cache = forward(*arguments)  # compiles, where something does
    gradients = backward(dout, cache)
    gradients = tuple(gradients) if isinstance(gradients, (tuple, list)) else (gradients,)
    kept = np.array(out), tuple(None if g is None else np.array(g) for g in gradients)
    forwards, backwards = [], []
    while len(forwards) < 3 or sum(forwards) + sum(backwards) < BUDGET:
        a = time.perf_counter()
        out, cache = forward(*arguments)
        b = time.perf_counter()
        backward(dout, cache)
        forwards.append(b - a)
        backwards.append(time.perf_counter() - b)
        if forwards[0] + backwards[0] > BUDGET or len(forwards) == 1000:
            break
    return Measured(*kept, statistics.median(forwards), statistics.median(backwards))

def torch_layer(case):
    """Return forward and backward of a case by torch; arrays go in and come out without being copied."""
    import torch

    function, n = torch_functions()[case.operation], len(case.gradients)

    def forward(*arguments):
        tensors = [torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in arguments]
        for tensor in tensors[:n]:
            tensor.requires_grad_()
        out = function(*tensors)
        return out.detach().numpy(), (out, tensors[:n])

    def backward(dout, cache):
        out, tensors = cache
        return tuple(g.numpy() for g in torch.autograd.grad(out, tensors, torch.from_numpy(np.asarray(dout))))

    return forward, backward

def in_float32(arguments):
    """Return the arguments with their float64 arrays in float32."""
    return tuple(a.astype(np.float32) if getattr(a, "dtype", None) == np.float64 else a for a in arguments)

def problem_of(measured, exact, names):
    """Say what is wrong with results besides their accuracy: shape, dtype, numbers that are none; or ""."""
    found = measured.gradients[: len(names)]
    if len(found) < len(names):
        return f"backward returned {len(found)} gradients, not {len(names)}: {', '.join(names)}"
    for name, array, right in zip(("out", *names), (measured.out, *found), (exact.out, *exact.gradients)):
        if array is None or array.shape != right.shape:
            return f"{name} has shape {getattr(array, 'shape', None)}, not {right.shape}"
        if array.dtype != np.float32:
            return f"{name} is {array.dtype}, not float32 as the input"
        if not np.isfinite(array).all():
            return f"{name} has numbers that are not finite"
    return ""

def relative_errors(measured, exact):
    """Return the largest difference of out and of each gradient, over the largest entry."""
    found = []
    for array, right in zip((measured.out, *measured.gradients), (exact.out, *exact.gradients)):
        found.append(float(np.abs(array - right).max()) / (float(np.abs(right).max()) or 1.0))
    return found

@kernel(parallel=True)
def copy(target, source):
    """Copy an array by all threads."""
    for i in prange(len(source)):
        target[i] = source[i]

def machine_rates():
    """Measure this machine: operations a second of a large float32 matrix product, and bytes a second of a copy."""
    a, source = np.ones((2048, 2048), np.float32), np.ones((64, 1 << 20), np.float32)
    target = np.empty_like(source)
    product = statistics.median(timeit.repeat(lambda: a @ a, number=1, repeat=7))
    time.sleep(PAUSE)
    copying = statistics.median(timeit.repeat(lambda: copy(target, source), number=1, repeat=7))
    return 2 * 2048**3 / product, 2 * source.nbytes / copying

# A student's module, in a process of its own --------------------------------------------------------------------------

def measure_student(module, operation, arguments, dout, limit):
    """Return the Measured of a case by a module's functions, in another process, so that they cannot stop the table.

    limit: seconds for starting the process and the calls; its problem says in one line what went wrong
    """
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=answer, args=(theirs, module, operation, arguments, dout), daemon=True)
    process.start()
    theirs.close()
    try:
        if pipe.poll(limit):
            return pipe.recv()
        return Measured(problem=f"ran past the limit of {limit:g} s")
    except (EOFError, OSError):
        process.join(1)
        return Measured(problem=f"ended its process (exit status {process.exitcode})")
    finally:
        process.kill()
        process.join()

def answer(pipe, module, operation, arguments, dout):
    """Measure a module's functions and send the Measured: what the other process does."""
    sys.stdout = sys.stderr = open(os.devnull, "w")
    try:
        module = load(module)
        functions = [getattr(module, f"{operation}_{way}") for way in ("forward", "backward")]
        measured = measure(*functions, arguments, dout)
    except Exception as error:
        measured = Measured(problem=f"{type(error).__name__}: {error}".splitlines()[0][:100])
    pipe.send(measured)

def load(module):
    """Import a module by its name or the path of its file."""
    sys.path[:0] = [str(Path(module).resolve().parent), os.getcwd()]
    if not module.endswith(".py"):
        return importlib.import_module(module)
    spec = importlib.util.spec_from_file_location(Path(module).stem, module)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded

# The table ------------------------------------------------------------------------------------------------------------

def compare(module="", full=False, limit=10.0):
    """Print the table, and write it with all its digits to runs/compare/compare.csv, with a picture beside it.

    module: a student's module, by name or path, with functions named and called as in layers.py; "" for none
    full: Koch's own shapes too, which take minutes; limit: seconds for a case of the module
    Returns the rows as dicts. Raises UserError when there is no such module, or no torch.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError("compare measures against torch, which is not installed; pip install torch") from error
    if module and not Path(module).is_file() and importlib.util.find_spec(module.partition(".")[0]) is None:
        raise UserError(f"there is no module {module} here; name a .py file or a module of this folder")
    if not 0 < limit < 1e6:
        raise UserError(f"--limit is more than 0 seconds and less than a million, not {limit:g}")
    torch.set_num_threads(numba.get_num_threads())
    product, bandwidth = machine_rates()
    print(f"{numba.get_num_threads()} threads; peak: NumPy's float32 matrix product, {product / 1e9:.0f} GFLOP/s")
    print(f"float32; medians in ms; errors against torch {torch.__version__} in float64, over the largest entry\n")
    rows, rng = [], np.random.default_rng(0)
    for case in CASES:
        if case.small or full:
            rows += compare_case(case, rng, product, module, limit)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with open(FOLDER / "compare.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    draw_roofline(rows, product, bandwidth, FOLDER / "roofline.png")
    print(f"in {FOLDER}/: compare.csv, roofline.png")
    return rows

def compare_case(case, rng, product, module="", limit=10.0):
    """Measure a case with all implementations, print its rows and return them."""
    arguments = case.make(rng)
    single = in_float32(arguments)
    forward, backward = torch_layer(case)
    out, cache = forward(*arguments)
    dout = rng.standard_normal(out.shape)
    exact = Measured(out, backward(dout, cache))
    dout = np.float32(dout)
    flops, moved = costs(case.operation, arguments, out)
    scale = flops, moved, product
    columns = f"{'forward':>11}{'backward':>10}{'GFLOP/s':>9}{'of peak':>9}{'/ torch':>9}"
    errors = "".join(f"{name:>10}" for name in ("out", *case.gradients))
    print(f"{case.operation}, {case.shape}\n  {'':22}{columns}   error of{errors}")
    ways = {"torch": (forward, backward)}
    if case.operation == "conv2d":
        for rung in convolution.RUNGS:
            ways[rung] = functools.partial(layers.conv2d_forward, rung=rung), layers.conv2d_backward
        ways["im2col"] = im2col_forward, im2col_backward
    else:
        ways["reference"] = tuple(getattr(layers, f"{case.operation}_{way}") for way in ("forward", "backward"))
    rows = []
    for name, functions in ways.items():
        time.sleep(PAUSE)
        if flops > MOST.get(name, flops):
            measured = Measured(problem="left out: it would take too long")
        else:
            measured = measure(*functions, single, dout)
        rows.append(row_of(case, name, measured, exact, scale, rows))
    if module:
        measured = measure_student(module, case.operation, single, dout, limit)
        rows.append(row_of(case, module, measured, exact, scale, rows))
    print(flush=True)
    return rows

def costs(operation, arguments, out):
    """Return how many floating-point operations a layer takes forwards and backwards, and how many numbers it moves.

    The numbers that must be moved at least: x, w and their gradients once, out once and dout twice. Both are 0 for
    what is no product.
    """
    if operation not in ("conv2d", "linear"):
        return 0, 0
    x, w, _ = arguments
    return 3 * 2 * out.size * w[0].size, 2 * (x.size + w.size) + 3 * out.size

def row_of(case, name, measured, exact, scale, rows):
    """Print and return the row of an implementation.

    scale: operations, numbers moved, and this machine's rate of a product; rows: torch's is the first
    """
    row = {"operation": case.operation, "shape": case.shape, "implementation": name}
    problem = measured.problem or problem_of(measured, exact, case.gradients)
    if problem:
        print(f"  {name:24} {problem}")
        return row | {"problem": problem}
    (flops, moved, product), seconds = scale, measured.forward + measured.backward
    row |= {"forward_s": measured.forward, "backward_s": measured.backward}
    row["ratio_to_torch"] = seconds / (rows[0]["forward_s"] + rows[0]["backward_s"]) if rows else 1.0
    rate = f"{'-':>9}{'-':>9}"
    if flops:
        row |= {"flop_per_s": flops / seconds, "of_product_rate": flops / seconds / product}
        row["flop_per_byte"] = flops / (4 * moved)
        rate = f"{row['flop_per_s'] / 1e9:9.1f}{row['of_product_rate']:9.1%}"
    found = relative_errors(measured, exact)
    for which, error in zip(("out", *case.gradients), found):
        row[f"relative_error_{which}"] = error
    times = f"{1e3 * measured.forward:9.2f}{1e3 * measured.backward:10.2f}{rate}{row['ratio_to_torch']:9.2f}"
    print(f"  {name:24}{times}{'':11}" + "".join(f"{error:10.0e}" for error in found))
    return row

def draw_roofline(rows, product, bandwidth, path):
    """Draw the convolutions' rates over their arithmetic intensity, under this machine's two limits, into a PNG."""
    from matplotlib.figure import Figure

    figure = Figure((9, 5), layout="constrained")
    axes = figure.subplots()
    x = np.geomspace(1, 2000, 200)
    limit = f"NumPy's product: {product / 1e9:.0f} GFLOP/s, memory: {bandwidth / 1e9:.0f} GB/s"
    axes.plot(x, np.minimum(x * bandwidth, product) / 1e9, color="gray", label=limit)
    convolutions = [row for row in rows if row["operation"] == "conv2d" and "flop_per_s" in row]
    names = dict.fromkeys(row["implementation"] for row in convolutions)
    for name, marker in zip(names, "*vs^oDP"):
        points = [row for row in convolutions if row["implementation"] == name]
        rates = [row["flop_per_s"] / 1e9 for row in points]
        axes.plot([row["flop_per_byte"] for row in points], rates, marker, label=name, markersize=7)
    for row in convolutions:
        if row["implementation"] == "torch":
            shape = row["shape"].partition(":")[0].partition(",")[0]
            axes.axvline(row["flop_per_byte"], color="lightgray", linewidth=0.8, zorder=0)
            axes.text(row["flop_per_byte"], 1.01, shape, fontsize=8, color="gray", rotation=45,
                      transform=axes.get_xaxis_transform())  # fmt: skip
    axes.set(xscale="log", xlabel="arithmetic intensity (floating-point operations per byte that must be moved)")
    axes.set(yscale="log", ylabel="rate, forwards and backwards (GFLOP/s)")
    axes.grid(alpha=0.3, which="both")
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=110)

"""Submissions for the tests of the marking: a right one, right ones with one planted mistake, and hostile ones.

    python tests/submissions.py FOLDER    write thirty made-up submissions, a course's worth, into a new folder
"""

import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
STARTER = ROOT / "tutorials" / "assignment" / "starter"
MODULES = ("layers", "convolution", "network", "learning", "data", "pairs")
GIVEN = {"network": "from reference_numpy.network import CONVOLUTIONS, LINEAR, TWINS, size_of\n"}  # as in the starter


def solution(module):
    """Return the reference's module as a student would hand it in."""
    text = (ROOT / "reference_numpy" / f"{module}.py").read_text()
    text = re.sub(r"^from \.(\w)", r"from reference_numpy.\1", text, flags=re.MULTILINE)
    text = text.replace("\nfrom . import", "\nfrom reference_numpy import")
    return text + "\n" + GIVEN.get(module, "")


def write(folder, **texts):
    """Write a submission: the texts of its modules."""
    folder.mkdir(parents=True)
    for module, text in texts.items():
        (folder / f"{module}.py").write_text(text)


class Mistake(NamedTuple):
    """Hold one mistake: the task that must lose points, the module, and the text that is replaced."""

    task: str
    module: str
    name: str
    old: str
    new: str


M = Mistake
MISTAKES = [
    M("1", "layers", "no bias", "return product(x, w.T) + b, (x, w)", "return product(x, w.T), (x, w)"),
    M("1", "layers", "db is a mean", "product(dout.T, x), dout.sum(0)\n", "product(dout.T, x), dout.mean(0)\n"),
    M("1", "layers", "dw is divided by N",
      "product(dout.T, x), dout.sum(0)\n", "product(dout.T, x) / len(x), dout.sum(0)\n"),
    M("1", "layers", "dx by the wrong side",
      "return product(dout, w), product", "return product(dout, w) * 2, product"),
    M("2", "layers", "relu's slope at 0 is 1", "return np.maximum(x, 0), x > 0", "return np.maximum(x, 0), x >= 0"),
    M("2", "layers", "relu lets every gradient through", "return dout * positive", "return dout.copy()"),
    M("2", "layers", "the sigmoid overflows",
      "e = np.exp(-np.abs(x))  # in 0..1\n    out = np.where(x >= 0, 1 / (1 + e), e / (1 + e))",
      "out = 1 / (1 + np.exp(-x))"),
    M("2", "layers", "the sigmoid's slope is half", "return dout * out * (1 - out)", "return dout * out"),
    M("2", "layers", "relu in place", "return np.maximum(x, 0), x > 0", "return np.maximum(x, 0, out=x), x > 0"),
    M("3", "layers", "the filter is flipped",
      "out = RUNGS[rung][0](x, w)", "out = RUNGS[rung][0](x, w[..., ::-1, ::-1].copy())"),
    M("3", "layers", "the bias is forgotten", "out += b[:, None, None]", "pass"),
    M("3", "layers", "always float64", "out = RUNGS[rung][0](x, w)", "out = RUNGS[rung][0](x, w).astype(float)"),
    M("3", "layers", "the first channel alone", "out = RUNGS[rung][0](x, w)",
      "out = RUNGS[rung][0](x[:, :1].copy(), w[:, :1].copy())"),
    M("4", "layers", "db is a mean", "dout.sum((0, 2, 3)) if has_bias", "dout.mean((0, 2, 3)) if has_bias"),
    M("4", "layers", "dw of the first image alone",
      "return dx(dout, w), dw(dout, x),", "return dx(dout, w), dw(dout[:1], x[:1]),"),
    M("4", "layers", "dx is flipped", "return dx(dout, w), dw(dout, x),",
      "return dx(dout, w[..., ::-1, ::-1].copy()), dw(dout, x),"),
    M("4", "layers", "db where there is no bias", "dout.sum((0, 2, 3)) if has_bias else None", "dout.sum((0, 2, 3))"),
    M("4", "layers", "the last call is remembered",
      "return out, (x, w, b is not None, rung)\n\ndef conv2d_backward(dout, cache):\n"
      '    """Return dx, dw and db (None if there was no b)."""\n    x, w, has_bias, rung = cache',
      "KEPT[:] = x, w, b is not None, rung\n    return out, None\n\n\nKEPT = []\n\n\n"
      "def conv2d_backward(dout, cache):\n"
      "    x, w, has_bias, rung = KEPT"),
    M("5", "convolution", "the filter is transposed", "total += x[n, c, y + i, z + j] * w[f, c, i, j]",
      "total += x[n, c, y + i, z + j] * w[f, c, j % KH, i % KW]"),
    M("5", "convolution", "dx is flipped", "total += dout[n, f, y - i, z - j] * w[f, c, i, j]",
      "total += dout[n, f, y - i, z - j] * w[f, c, KH - 1 - i, KW - 1 - j]"),
    M("5", "convolution", "dx without the border", "for i in range(max(0, y - OH + 1), min(KH, y + 1)):",
      "for i in range(max(0, y - OH + 1), min(KH, y)):"),
    M("5", "convolution", "dw of the first image alone",
      "for n in range(N):\n                        for y in range(OH):",
      "for n in range(1):\n                        for y in range(OH):"),
    M("6", "layers", "the last maximum", "if value > best or value != value:", "if value >= best or value != value:"),
    M("6", "layers", "never below 0", "best, where = x[n, c, 2 * y, 2 * z], 0", "best, where = 0.0, 0"),
    M("6", "layers", "the gradient in the upper row", "(upper if which[z] < 2 else lower)", "upper"),
    M("7", "layers", "no absolute value", 'np.einsum("...d,d->...", np.abs(difference), alpha[0])',
      'np.einsum("...d,d->...", difference, alpha[0])'),
    M("7", "layers", "dh2 has dh1's sign", "unbroadcast(-dh, shape2)", "unbroadcast(dh, shape2)"),
    M("7", "layers", "the slope of |.| at 0 is 1",
      "np.sign(difference) * alpha", "np.where(difference >= 0, 1.0, -1.0) * alpha"),
    M("7", "layers", "the loss is a sum", "return losses.mean(), (sigmoid_forward(logits)[0] - same)",
      "return losses.sum(), (sigmoid_forward(logits)[0] - same)"),
    M("7", "layers", "the loss ignores dout",
      '"""Return dlogits; dout is a number."""\n    return np.asarray(dout, slope.dtype) * slope\n\n'
      "def softmax", '"""Return dlogits; dout is a number."""\n    return slope.copy()\n\n\ndef softmax'),
    M("8", "network", "the first twin's gradients alone", "first[name] += second[name]", "pass"),
    M("8", "network", "the second twin runs backwards with the first's gradient", "features_backward(dh2, twin2)",
      "features_backward(dh1, twin2)"),
    M("8", "network", "always in training", "*statistics, training)", "*statistics, True)"),
    M("8", "network", "no gradient for the join",
      'return first | {"join.weight": dalpha, "join.bias": dbias}', "return first"),
    M("9", "learning", "the penalty is on biases too", "if decays(name, w):", "if True:"),
    M("9", "learning", "half the penalty", "gradient + 2 * of_layer", "gradient + of_layer"),
    M("9", "learning", "the learning rate is outside the velocity",
      "velocity.get(name, 0.0) - of_layer(learning_rate, name) * gradient\n        new[name] = w + moved[name]",
      "velocity.get(name, 0.0) + gradient\n        new[name] = w - of_layer(learning_rate, name) * moved[name]"),
    M("9", "learning", "a learning rate that falls in a line",
      "learning_rate * 0.99**epoch", "learning_rate * (1 - 0.01 * epoch)"),
    M("9", "learning", "a momentum that rises for ever", "min(1.0, epoch / n_epochs)", "epoch / n_epochs"),
    M("10", "pairs", "a drawing with itself", "(drawer + 1 + further) % n_drawers", "(drawer + further) % n_drawers"),
    M("10", "pairs", "a third is the same", "same, a = i % 2 == 0,", "same, a = i % 3 == 0,"),
    M("10", "pairs", "neighbours alone",
      "further = rng.integers(n_drawers - 1, size=n_pairs)", "further = np.zeros(n_pairs, int)"),
    M("10", "pairs", "different ones may be the same",
      "(place + 1 + rng.integers(size - 1)) % size", "(place + rng.integers(size)) % size"),
    M("11", "data", "the answer is always first", "answers.append(rng.integers(n_way))", "answers.append(0)"),
    M("11", "data", "one drawer for all", "* n_drawers + test_drawer", "* n_drawers + drawer"),
    M("11", "data", "ties go to the first", "(logits == logits.max()).sum() == 1", "True"),
    M("11", "data", "all alphabets are one pool",
      "pools = [np.flatnonzero(drawings.alphabet == a) for a in range(len(drawings.names))]",
      "pools = [np.arange(len(drawings.alphabet))]"),
    M("12", "pairs", "labels of other pairs", "pairs.same[chosen], eta, mu", "pairs.same[: len(chosen)], eta, mu"),
    M("12", "pairs", "the second twin leaves no statistics", "for twin in cache[:2]:", "for twin in cache[:1]:"),
    M("12", "pairs", "the velocity is forgotten",
      "velocity, learning_rate, momentum, l2), loss", "{}, learning_rate, momentum, l2), loss"),
]  # fmt: skip

HOSTILE = {  # name: module and text; what each of them does to others is nothing
    "hangs": ("layers", "def relu_forward(x):\n    while True:\n        pass\n"),
    "hangs_at_import": ("layers", "while True:\n    pass\n"),
    "crashes": ("layers", "import os\n\n\ndef linear_forward(x, w, b):\n    os._exit(0)\n"),
    "segfaults": ("layers", "import ctypes\n\n\ndef linear_forward(x, w, b):\n    ctypes.string_at(0)\n"),
    "exits": ("layers", "import sys\n\nsys.exit(0)\n"),
    "prints": ("layers", "def linear_forward(x, w, b):\n    print('x' * 50_000_000)\n    return x @ w.T + b, (x, w)\n"),
    "patches": (
        "layers",
        "import numpy as np\nimport numpy.testing\n\n"
        "for name in ('allclose', 'array_equal', 'isnan', 'asarray', 'savez'):\n"
        "    setattr(np, name, lambda *a, **k: True)\n"
        "import reference_numpy.layers, tutorials.assignment.tasks as tasks\n\ntasks.ask = lambda *a: 1\n"
        "reference_numpy.layers.linear_forward = lambda *a: (0, 0)\n\n\n"
        "def linear_forward(x, w, b):\n    return x @ w.T + b, (x, w)\n",
    ),
    "patches_pytest": (
        "layers",
        "import _pytest.runner, pytest\n\n_pytest.runner.runtestprotocol = lambda *a, **k: True\n\n\n"
        "def linear_forward(x, w, b):\n    return x, None\n",
    ),
    "imports_torch": (
        "layers",
        "try:\n    import torch\nexcept ImportError as error:\n    raise ImportError(f'as it should be: {error}')\n",
    ),
    "is_deaf": (
        "layers",
        "import threading\n\n\ndef linear_forward(x, w, b):\n"
        "    threading.Thread(target=lambda: 7 ** 10**9, daemon=True).start()\n    return x @ w.T + b, (x, w)\n",
    ),
    "fills": ("layers", "def linear_forward(x, w, b):\n    return [bytes(1 << 30) for _ in range(100)]\n"),
    "answers_itself": (
        "layers",
        "import os\n\nfor i in range(3, 30):\n    try:\n        os.write(i, b'\\0\\0\\0\\4nope')\n"
        "    except OSError:\n        pass\n",
    ),
}

FIRST = "def linear_forward(x, w, b):\n"
ISOLATED = {  # what bubblewrap alone holds off: text of layers.py, with OUTSIDE, a folder, and PORT, where a server is
    "writes": f"{FIRST}    open('/tmp/its_own', 'w').close()\n    open(OUTSIDE + '/written.txt', 'w')\n",
    "deletes": f"import os\n\n\n{FIRST}    os.remove(OUTSIDE + '/kept.txt')\n",
    "reads": f"{FIRST}    open(OUTSIDE + '/submissions/right/layers.py').read()\n",
    "connects": f"import socket\n\n\n{FIRST}    socket.create_connection(('127.0.0.1', PORT), 1)\n",
    "forks": f"import os\n\n\n{FIRST}    while True:\n        os.fork()\n",
    "outlives": f"import subprocess\n\n\n{FIRST}    subprocess.Popen(['sleep', '987'], start_new_session=True)\n",
    "kills": f"import os\n\n\n{FIRST}    os.kill(os.getppid(), 9)\n",
}

NAMES = (
    "Ada Alan Barbara Claude Dana Edsger Frances Grace Hedy Ivan John Katherine Leslie Margaret Niklaus Ole Peter "
    "Radia Sophie Tim Ursula Vint Wendy Xin Yann Zohar Emmy Kurt Maria Paul"
).split()


def thirty(folder):
    """Write thirty: five hostile, two right, five unfinished, the empty starter, seventeen with one mistake each."""
    hostile = "hangs", "crashes", "patches", "exits", "imports_torch"
    kinds = [*hostile, "right", "right", "empty", *(MODULES[:n] for n in range(1, 6))]
    kinds += MISTAKES[:: len(MISTAKES) // 17][:17]
    for i, name in enumerate(sorted(NAMES)):
        kind = kinds[i * 7 % 30]  # in no order
        texts = {module: solution(module) for module in MODULES}
        if kind in HOSTILE:
            module, text = HOSTILE[kind]
            texts |= {module: text}
        elif kind == "empty":
            texts = {path.stem: path.read_text() for path in STARTER.glob("*.py")}
        elif isinstance(kind, Mistake):
            texts[kind.module] = texts[kind.module].replace(kind.old, kind.new)
        elif kind != "right":
            starter = {path.stem: path.read_text() for path in STARTER.glob("*.py")}
            texts = starter | {module: texts[module] for module in kind}
        write(folder / name.lower(), **texts)


if __name__ == "__main__":
    thirty(Path(sys.argv[1]))

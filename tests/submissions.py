"""Submissions for the tests of the marking: a right one, and right ones with one planted mistake.

    python tests/submissions.py FOLDER    write thirty made-up submissions, a course's worth, into a new folder
"""

import ast
import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]

from hostile import HOSTILE  # noqa: E402

from tutorials.assignment.tasks import TASKS  # noqa: E402

STARTER = ROOT / "tutorials" / "assignment" / "starter"
MODULES = ("layers", "convolution", "network", "learning", "data", "pairs")
BEGINNING = {  # what a solution imports where the reference imports its own
    "layers": "from convolution import RUNGS\nfrom given import kernel\n",
    "convolution": "from given import kernel\n",
    "network": "import given as layers\n",
    "pairs": "import given\nfrom given import UserError, to_input\n",
}
END = {  # NumPy's product, and one rung of the ladder, so that less is compiled; the net that is marked is in given.py
    "layers": "\nproduct = np.matmul\n",
    "convolution": "\nRUNGS = {'blocked': (forward_numba, dx_numba, dw_numba)}\n",
    "network": "\nfrom given import CONVOLUTIONS, LINEAR, TWINS, size_of\n",
    "pairs": "\nlayers = learning = network = given\n",
}


def solution(module):
    """Return the reference's functions for a module's tasks as a student would hand them in."""
    asked = {name for task in TASKS if task.module == module for name in task.functions}
    text = cut(ROOT / "reference_numpy" / f"{module}.py", asked)
    return BEGINNING.get(module, "") + re.sub(r"^from \..*\n", "", text, flags=re.MULTILINE) + END.get(module, "")


def cut(path, names):
    """Return the text of a module's statements that names need, directly or not, as it stands there."""
    text, before = path.read_text(), None
    body, lines = ast.parse(text).body, text.splitlines()
    while names != before:
        before = names
        for node in (node for node in body if defined(node) & names):
            names = names | {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} | defined(node)
    kept = [node for node in body if defined(node) & names]
    first = [min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))]) for node in kept]
    return "\n\n".join("\n".join(lines[a - 1 : node.end_lineno]) for a, node in zip(first, kept)) + "\n"


def defined(node):
    """Return the names that a statement of a module defines or changes."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name for alias in node.names}
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    targets = [n for target in getattr(node, "targets", ()) for n in ast.walk(target)]
    return {n.id for n in targets if isinstance(n, ast.Name)}


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
    M("6", "layers", "the gradient in the upper row", "row = upper if which[z] < 2 else lower", "row = upper"),
    M("7", "layers", "no absolute value", 'np.einsum("...d,d->...", np.abs(difference), alpha[0])',
      'np.einsum("...d,d->...", difference, alpha[0])'),
    M("7", "layers", "dh2 has dh1's sign", "unbroadcast(-dh, shape2)", "unbroadcast(dh, shape2)"),
    M("7", "layers", "the slope of |.| at 0 is 1",
      "np.sign(difference) * alpha", "np.where(difference >= 0, 1.0, -1.0) * alpha"),
    M("7", "layers", "the loss is a sum", "return losses.mean(), (sigmoid_forward(logits)[0] - same)",
      "return losses.sum(), (sigmoid_forward(logits)[0] - same)"),
    M("7", "layers", "the loss ignores dout",
      "return np.asarray(dout, slope.dtype) * slope", "return slope.copy()"),
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

NAMES = (
    "Ada Alan Barbara Claude Dana Edsger Frances Grace Hedy Ivan John Katherine Leslie Margaret Niklaus Ole Peter "
    "Radia Sophie Tim Ursula Vint Wendy Xin Yann Zohar Emmy Kurt Maria Paul"
).split()


COMMON = {  # mistakes of thirty submissions: how many make them
    "the gradient in the upper row": 4, "no bias": 3, "one drawer for all": 2, "half the penalty": 2,
    "dx without the border": 2, "the first twin's gradients alone": 2, "the loss is a sum": 2,
}  # fmt: skip


def thirty():
    """Make up thirty submissions, {name: {module: text}}.

    Five are hostile, two right, five unfinished, one is the empty starter, and seventeen have one mistake each.
    """
    right = {module: solution(module) for module in MODULES}
    starter = {path.stem: path.read_text() for path in STARTER.glob("*.py")}
    hostile = "hangs", "crashes", "asks_torch", "exits", "wraps_what_is_given"
    texts = [right | {"layers": HOSTILE[name]} for name in hostile] + [right, right, starter]
    texts += [starter | {module: right[module] for module in MODULES[:n]} for n in range(1, 6)]
    for name, n in COMMON.items():
        mistake = next(mistake for mistake in MISTAKES if mistake.name == name)
        texts += [right | {mistake.module: right[mistake.module].replace(mistake.old, mistake.new)}] * n
    return {name.lower(): texts[i * 7 % 30] for i, name in enumerate(sorted(NAMES))}  # in no order


if __name__ == "__main__":
    for name, texts in thirty().items():
        write(Path(sys.argv[1], name), **texts)

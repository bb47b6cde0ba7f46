"""The tasks of the assignment, what a case asks, and how an answer is judged.

A case (cases.py) asks one question (inside.py) of the functions of one task, with drawn inputs. The same question is
put to reference_numpy, and the two answers are compared; where answers may differ (random draws, training) a judge
looks at them instead.
"""

import importlib
import inspect
from typing import NamedTuple

import numpy as np

from reference_numpy import data, network
from tutorials.assignment import inside
from tutorials.assignment.starter import given, variants  # noqa: F401  given adds the net of 15x15 pixels

FAR = 1e-9  # of the largest number of an answer: how far float64 answers may be apart; float32: 1e-4


class Task(NamedTuple):
    """Hold a task: its number (letters are open variants), name, points, module, functions to write, and a question.

    question: what to ask the class where many have it wrong
    """

    number: str
    name: str
    points: int
    module: str
    functions: tuple
    question: str = ""


def both(*names):
    """Return the names of layers' two functions."""
    return tuple(f"{name}_{way}" for name in names for way in ("forward", "backward"))


TASKS = (
    Task("1", "linear", 5, "layers", both("linear"),
         "Why does linear_backward sum over N for the bias? What would the mean do to the learning rate?"),
    Task("2", "relu, sigmoid", 5, "layers", both("relu", "sigmoid"),
         "What is relu's slope at 0, and how often is a drawing's pixel exactly 0? Which e^x overflows?"),
    Task("3", "convolution, forwards", 10, "layers", ("conv2d_forward",),
         "Which output does the upper left pixel of a 5x9 image move, and which the lower right one?"),
    Task("4", "convolution, backwards", 15, "layers", ("conv2d_backward",),
         "Which mistakes would an image of 6x6 pixels with a filter of 3x3 not have shown?"),
    Task("5", "convolution with Numba", 10, "convolution", ("forward_numba", "dx_numba", "dw_numba"),
         "prange over what, in dw? What goes wrong over the images?"),
    Task("6", "pooling", 5, "layers", both("maxpool2x2"),
         "Two of four pixels are the largest. Who gets the gradient, and how often is it so in a drawing?"),
    Task("7", "join and loss", 10, "layers", both("l1_join", "bce_with_logits"),
         "Why is the loss computed from logits? At which logit does a float32 sigmoid become exactly 1?"),
    Task("8", "twin net", 15, "network", both("features", "siamese"),
         "Both twins call the same layer. Where is the first call's input when the second has run?"),
    Task("9", "SGD of the paper", 5, "learning", ("sgd", "paper_learning_rate", "paper_momentum"),
         "The learning rate falls. Does a step that was taken earlier, and is still in the velocity, shrink too?"),
    Task("10", "pair sampling", 5, "pairs", ("draw_pairs",),
         "Draw ten pairs by hand: how many are the same character, and how often is each drawer's turn?"),
    Task("11", "one-shot evaluation", 5, "data", ("one_shot_trials", "one_shot_answers"),
         "A net answers every trial with the first place. How many does it get right if the draw is fair?"),
    Task("12", "training", 10, "pairs", ("pair_step", "train_on_pairs"),
         "In which order do the pairs come in the second epoch, and which labels go with them?"),
    Task("A", "stride 2", 5, "variants", both("conv2d_stride2")),
    Task("B", "average pooling", 5, "variants", both("avgpool2x2")),
    Task("C", "cosine join", 5, "variants", both("cosine_join")),
    Task("D", "triplet loss", 5, "variants", both("triplet_loss")),
)  # fmt: skip
COMPULSORY = [task for task in TASKS if task.number.isdigit()]
VARIANTS = [task for task in TASKS if task not in COMPULSORY]
TOTAL = sum(task.points for task in COMPULSORY)


class Case(NamedTuple):
    """Hold a question of a task: a sentence that says what must hold, how it is asked and with what.

    judge: (answer) -> "" or what is wrong with it; None: compare with the right answer
    answer: the right one; None: the reference's
    timed: its time is the task's speed
    """

    sentence: str
    question: str
    arguments: tuple
    judge: object = None
    answer: object = None
    timed: bool = False

    @property
    def inputs(self):
        """Return {name: input} of the function or layer that is asked, {} where the question is about more."""
        name, *parts = self.arguments
        if self.question in ("call", "threads"):
            return dict(zip(parameters(name), parts))
        if self.question in ("forwards", "both_ways", "backwards", "left_alone"):
            names = parameters(f"{name}_forward")
            return dict(zip(names if self.question == "forwards" else ["dout", *names], parts))
        return {}

    @property
    def names(self):
        """Return the names of the parts of a layer's answer, for what is said of a wrong one."""
        gradients = [f"d{name}" for name in self.inputs if name != "dout"]
        arrays = [name for name, part in self.inputs.items() if isinstance(part, np.ndarray)]
        names = {
            "forwards": ["out"], "both_ways": ["out", *gradients], "backwards": gradients,
            "left_alone": [*arrays, "out"],
        }  # fmt: skip
        return names.get(self.question, [])

    @property
    def given(self):
        """Return in words what the question comes with: the names, shapes and dtypes of its inputs."""
        if self.inputs:
            return ", ".join(f"{name} {in_words(part)}" for name, part in self.inputs.items())
        return ", ".join(filter(None, map(in_words, self.arguments)))


def in_words(thing):
    """Say what is given to a submission; nothing of a function's name."""
    if isinstance(thing, np.ndarray):
        return f"{thing.shape} {thing.dtype}"
    if isinstance(thing, data.Drawings):
        (n, drawers, height, width), counts = thing.images.shape, np.bincount(thing.alphabet)
        of = f"in alphabets of {', '.join(map(str, counts))}"
        return f"of {n} characters {of}, each by {drawers} drawers, {height}x{width} pixels"
    if isinstance(thing, inside.Seed):
        return "np.random.default_rng(...)"
    if isinstance(thing, dict):
        try:
            size = network.size_of(thing)
            return f"of a net of {size}x{size} pixels, TWINS[{size}]"
        except ValueError:  # of no net
            return "{" + ", ".join(thing) + "}"
    if isinstance(thing, tuple):
        return "(" + ", ".join(map(in_words, thing)) + ")"
    return "" if isinstance(thing, str) else str(thing)


def reference(name):
    """Return the reference's function "module.function"."""
    module, function = name.split(".")
    return getattr(importlib.import_module(f"reference_numpy.{module}"), function)


def parameters(name):
    """Return the names of the parameters of the function "module.function"; an open variant's stand in the starter."""
    module, _, function = name.partition(".")
    return list(inspect.signature(getattr(variants, function) if module == "variants" else reference(name)).parameters)


# Judging --------------------------------------------------------------------------------------------------------------


def wrong(answer, wanted, name="the result", names=()):
    """Return "" if an answer is the wanted one, else what is wrong with it in plain words; names: of its parts."""
    if isinstance(wanted, dict):
        if not isinstance(answer, dict):
            return f"{name} is no dict"
        if missing := [key for key in wanted if key not in answer]:
            return f"{name} has no {missing[0]}"
        if more := [key for key in answer if key not in wanted]:
            return f"{name} has {more[0]}, which does not belong there"
        return next(filter(None, (wrong(answer[key], wanted[key], key) for key in wanted)), "")
    if isinstance(wanted, tuple):
        if not isinstance(answer, (tuple, list)) or len(answer) != len(wanted):
            n = f"{len(answer)} parts" if isinstance(answer, (tuple, list)) else f"a {type(answer).__name__}"
            return f"{name} has {n} where {len(wanted)} are wanted"
        names = names or [f"part {i + 1} of {name}" for i in range(len(wanted))]
        return next(filter(None, map(wrong, answer, wanted, names)), "")
    if wanted is None or isinstance(wanted, (bool, str)):
        is_so = type(answer) is type(wanted) and answer == wanted
        return "" if is_so else f"{name} is {answer!r:.60}, not {wanted!r}"
    if isinstance(answer, (dict, tuple, list, str)) or answer is None:
        return f"{name} is {answer!r:.60}, not numbers"
    answer, wanted = np.asarray(answer), np.asarray(wanted)
    if answer.shape != wanted.shape:
        return f"{name} has shape {answer.shape}, not {wanted.shape}"
    if wanted.ndim and wanted.dtype.kind == "f" and answer.dtype != wanted.dtype:
        return f"{name} is {answer.dtype}, not {wanted.dtype}"
    if (np.isnan(answer) != np.isnan(wanted)).any():
        return f"{name} has {np.isnan(answer).sum()} of {answer.size} entries that are not numbers"
    apart = np.abs(np.nan_to_num(answer).astype(float) - np.nan_to_num(wanted).astype(float))
    allowed = (1e-4 if wanted.dtype == np.float32 else FAR) * np.abs(np.nan_to_num(wanted)).max(initial=1e-300)
    if not (apart <= allowed).all():
        where = np.unravel_index(np.argmax(apart), apart.shape)
        at = f" at {tuple(map(int, where))}" if wanted.ndim else ""
        return f"{name} is {answer[where]:.6g}{at} where it should be {wanted[where]:.6g}"
    return ""


def verdict(case, answer, wanted):
    """Return "" if the answer to a case is right, else one line in plain words; never raise an error."""
    try:
        said = case.judge(answer) if case.judge else wrong(answer, wanted, names=case.names)
        return " ".join(said.split())
    except Exception as error:  # an answer of a kind that nobody thought of
        return f"the answer is not of the kind that was asked for ({type(error).__name__}: {error})"

"""The tasks of the assignment, how a submission's functions are asked, and how an answer is judged.

A case (cases.py) asks one question of the functions of one task, with drawn inputs. The same question is put to
reference_numpy, and the two answers are compared; where answers may differ (random draws, training) a judge looks at
them instead. Tasks do not lean on each other: from task 8 on a submission may use the reference's layers.
"""

import importlib
from typing import NamedTuple

import numpy as np

from reference_numpy import baselines, data, network, pairs

FAR = 1e-9  # of the largest number of an answer: how far float64 answers may be apart; float32: 1e-4
TINY = 15  # pixels: a net small enough to train within seconds, which network.py is given here


def add_tiny_net():
    """Give network.py a third net of the kinds of layers of the reduced one, on 15x15 pixels."""
    kinds = "conv2d maxpool2x2 batchnorm relu conv2d_same maxpool2x2 batchnorm relu flatten linear batchnorm"
    network.TWINS[TINY] = kinds.split()
    network.CONVOLUTIONS[TINY], network.LINEAR[TINY] = ((8, 1, 4, 4), (16, 8, 3, 3)), (32, 144)


class Task(NamedTuple):
    """Hold a task: its number (letters are open variants), name, points, module and the functions to write."""

    number: str
    name: str
    points: int
    module: str
    functions: tuple


def both(*names):
    """Return the names of layers' two functions."""
    return tuple(f"{name}_{way}" for name in names for way in ("forward", "backward"))


TASKS = (
    Task("1", "linear", 5, "layers", both("linear")),
    Task("2", "relu, sigmoid", 5, "layers", both("relu", "sigmoid")),
    Task("3", "convolution, forwards", 10, "layers", ("conv2d_forward",)),
    Task("4", "convolution, backwards", 15, "layers", ("conv2d_backward",)),
    Task("5", "convolution with Numba", 10, "convolution", ("forward_numba", "dx_numba", "dw_numba")),
    Task("6", "pooling", 5, "layers", both("maxpool2x2")),
    Task("7", "join and loss", 10, "layers", both("l1_join", "bce_with_logits")),
    Task("8", "twin net", 15, "network", both("features", "siamese")),
    Task("9", "SGD of the paper", 5, "learning", ("sgd", "paper_learning_rate", "paper_momentum")),
    Task("10", "pair sampling", 5, "pairs", ("draw_pairs",)),
    Task("11", "one-shot evaluation", 5, "data", ("one_shot_trials", "one_shot_answers")),
    Task("12", "training", 10, "pairs", ("pair_step", "train_on_pairs")),
    Task("A", "stride 2", 5, "variants", both("conv2d_stride2")),
    Task("B", "average pooling", 5, "variants", both("avgpool2x2")),
    Task("C", "cosine join", 5, "variants", both("cosine_join")),
    Task("D", "triplet loss", 5, "variants", both("triplet_loss")),
)


PARTS = {"forwards": slice(1), "backwards": slice(1, None)}  # question: which parts of NAMES its answer has
PARTS |= {question: slice(None) for question in ("both_ways", "call")}
NAMES = {  # function or question: what the parts of its answer are called
    "linear": ("out", "dx", "dw", "db"), "conv2d": ("out", "dx", "dw", "db"), "relu": ("out", "dx"),
    "sigmoid": ("out", "dx"), "maxpool2x2": ("out", "dx"), "bce_with_logits": ("loss", "dlogits"),
    "l1_join": ("logits", "dh1", "dh2", "dalpha", "dbias"), "forward_numba": ("forward",), "dx_numba": ("dx",),
    "dw_numba": ("dw",), "pair_step": ("parameters", "velocity", "loss"), "steps": ("parameters", "velocity"),
    "twins": ("logits", "gradients"), "one_twin": ("features", "gradients"), "logits_of": ("logits",),
    "answers": ("answers",),
}  # fmt: skip


class Case(NamedTuple):
    """Hold a question: its task's number, a sentence that says what must hold, how it is asked and with what.

    judge: (answer) -> "" or what is wrong with it; None: compare with the reference's answer
    timed: its time is the task's speed
    """

    task: str
    sentence: str
    question: str
    arguments: tuple
    judge: object = None
    timed: bool = False

    @property
    def module(self):
        """Return the module that the task is written in."""
        return next((task.module for task in TASKS if task.number == self.task), "")

    @property
    def names(self):
        """Return the names of the answer's parts, for what is said of a wrong one."""
        if self.question not in PARTS:
            return NAMES.get(self.question, ())
        return NAMES.get(self.arguments[0].partition(".")[2], ())[PARTS[self.question]]


class Seed(NamedTuple):
    """Stand for np.random.default_rng(seed), made anew for whoever answers."""

    seed: int


# Questions: asked where the submission runs ---------------------------------------------------------------------------


def call(find, name, *arguments):
    """Return what a function returns."""
    return find(name)(*fresh(arguments))


def forwards(find, layer, *arguments):
    """Return a layer's out."""
    return find(f"{layer}_forward")(*fresh(arguments))[0]


def both_ways(find, layer, dout, *arguments):
    """Return a layer's out and its gradients, a tuple; an overflow or an invalid operation on the way is an error."""
    with np.errstate(over="raise", invalid="raise"):
        out, cache = find(f"{layer}_forward")(*fresh(arguments))
        gradients = find(f"{layer}_backward")(*fresh((dout,)), cache)
    return out, *(gradients if isinstance(gradients, tuple) else (gradients,))


def backwards(find, layer, dout, *arguments):
    """Return a layer's gradients, a tuple."""
    backward, forward = find(f"{layer}_backward"), find(f"{layer}_forward")
    try:
        cache = forward(*fresh(arguments))[1]
    except NotImplementedError as error:
        raise NotImplementedError(f"it goes on with what {layer}_forward kept, and that is missing ({error})") from None
    gradients = backward(*fresh((dout,)), cache)
    return gradients if isinstance(gradients, tuple) else (gradients,)


def twice(find, layer, dout1, arguments1, dout2, arguments2):
    """Return the gradients of two calls, both forwards before both backwards: as the twins do."""
    forward, backward = find(f"{layer}_forward"), find(f"{layer}_backward")
    cache1, cache2 = forward(*fresh(arguments1))[1], forward(*fresh(arguments2))[1]
    return backward(dout1.copy(), cache1), backward(dout2.copy(), cache2)


def left_alone(find, layer, dout, *arguments):
    """Return a layer's inputs and dout as they are after it ran both ways."""
    given = fresh((dout, *arguments))
    _, cache = find(f"{layer}_forward")(*given[1:])
    find(f"{layer}_backward")(given[0], cache)
    return tuple(a for a in given if isinstance(a, np.ndarray))


def threads(find, name, *arguments):
    """Say whether a compiled function gives the same numbers on one thread and on two, 20 times."""
    import numba

    function, most = find(name), numba.get_num_threads()
    numba.set_num_threads(1)
    one = function(*fresh(arguments))
    numba.set_num_threads(min(2, numba.config.NUMBA_NUM_THREADS))
    equal = all(np.array_equal(one, function(*fresh(arguments))) for _ in range(20))
    numba.set_num_threads(most)
    return equal


def steps(find, parameters, gradients, *settings):
    """Return parameters and velocity after a step of sgd for each of the settings."""
    velocity = {}
    for setting in settings:
        parameters, velocity = find("learning.sgd")(parameters, gradients, velocity, *setting)
    return parameters, velocity


def twins(find, parameters, x1, x2, dlogits, training):
    """Return a net's logits and all its gradients."""
    logits, cache = find("network.siamese_forward")(parameters, *fresh((x1, x2)), training)
    return logits, find("network.siamese_backward")(dlogits.copy(), cache)


def logits_of(find, parameters, x1, x2):
    """Return a net's logits."""
    return find("network.siamese_forward")(parameters, *fresh((x1, x2)))[0]


def one_twin(find, parameters, x, dh, training):
    """Return a twin's features and all its gradients."""
    h, cache = find("network.features_forward")(parameters, x.copy(), training)
    return h, find("network.features_backward")(dh.copy(), cache)


def answers(find, scorer, trials):
    """Return the answers to one-shot trials by a scorer that is not a net."""
    pixels = baselines.PixelNearestNeighbour()
    logit = {
        "pixels": pixels.logit,
        "constant": lambda h1, h2: np.zeros(len(h1)),
        "nan": lambda h1, h2: np.where(np.arange(len(h1)) == 1, np.nan, pixels.logit(h1, h2)),
    }[scorer]
    return find("data.one_shot_answers")(lambda images: pixels.features(images[:, None]), logit, trials)


def trained(find, parameters, drawings, rng, *options):
    """Return the losses of a training on pairs, the logits of other drawings' pairs, and whether those are the same."""
    names = drawings.names
    seen, unseen = (
        data.Drawings(drawings.images[chosen], drawings.alphabet[chosen] - first, names[first : first + 4])
        for first, chosen in ((0, drawings.alphabet < 4), (4, drawings.alphabet >= 4))
    )
    parameters, losses = find("pairs.train_on_pairs")(parameters, seen, rng, *options)
    tested = pairs.draw_pairs(unseen, 400, np.random.default_rng(1))
    images = unseen.images.reshape(-1, *unseen.images.shape[2:])
    both = (data.to_input(images[which], TINY) for which in (tested.first, tested.second))
    return losses, network.siamese_forward(parameters, *both)[0], tested.same


QUESTIONS = {
    "call": call, "forwards": forwards, "both_ways": both_ways, "backwards": backwards, "twice": twice,
    "left_alone": left_alone, "threads": threads, "steps": steps, "twins": twins,
    "logits_of": logits_of, "one_twin": one_twin, "answers": answers, "trained": trained,
}  # fmt: skip


def fresh(arguments):
    """Copy the arrays among arguments: nobody's answer depends on what another did to them."""
    return tuple(a.copy() if isinstance(a, np.ndarray) else a for a in arguments)


def reference(name):
    """Return the reference's function "module.function"."""
    module, function = name.split(".")
    return getattr(importlib.import_module(f"reference_numpy.{module}"), function)


def ask(find, case):
    """Put a case's question. find: (name "module.function") -> the function"""
    arguments = (np.random.default_rng(a.seed) if isinstance(a, Seed) else a for a in case.arguments)
    return QUESTIONS[case.question](find, *arguments)


# Judging --------------------------------------------------------------------------------------------------------------


def wrong(answer, wanted, name="the result"):
    """Return "" if an answer is the wanted one, else what is wrong with it in plain words."""
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
        parts = (wrong(a, w, f"part {i + 1} of {name}") for i, (a, w) in enumerate(zip(answer, wanted)))
        return next(filter(None, parts), "")
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
        return " ".join((case.judge(answer) if case.judge else compared(case, answer, wanted)).split())
    except Exception as error:  # an answer of a kind that nobody thought of
        return f"the answer is not of the kind that was asked for ({type(error).__name__})"


def compared(case, answer, wanted):
    """Return "" if the answer is the reference's, else what is wrong with which part of it."""
    names = case.names
    if isinstance(wanted, tuple) and isinstance(answer, (tuple, list)) and len(names) == len(wanted) == len(answer):
        return next(filter(None, map(wrong, answer, wanted, names)), "")
    return wrong(answer, wanted, names[0] if len(names) == 1 else "the result")

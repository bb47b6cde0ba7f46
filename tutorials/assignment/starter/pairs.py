"""Tasks 10 and 12: pairs of drawings, and training on them as the paper does (§3.2, §4.2).

Drawings has images (characters, drawers, H, W), alphabet (characters,) and names: reference_numpy/data.py describes
it. Task 12 may use of given.py what tasks 1 to 9 ask for, given.siamese_forward and so on, or your own; its pairs are
drawn by your draw_pairs. It is marked with nets of 15x15 pixels.
"""

import given  # noqa: F401
import numpy as np  # noqa: F401
from given import Pairs, UserError, to_input  # noqa: F401  Pairs is a NamedTuple of first, second and same

# Task 10 --------------------------------------------------------------------------------------------------------------


def draw_pairs(drawings, n_pairs, rng):
    """Draw pairs, equal numbers of each alphabet (§4.2).

    ours: both drawings are of one alphabet, and every other pair is of one character; the paper prints neither.
    drawings: Drawings with every drawer's drawing of every character; alphabets of one character are left out
    rng: numpy.random.Generator
    Returns Pairs: a same pair is of two different drawings, a different one of two characters of one alphabet, each
    by any drawer. Drawn directly: nothing is drawn and thrown away. Raises UserError when no alphabet is left.
    """
    raise NotImplementedError("Task 10: draw two places of an alphabet directly, the second some steps after the first")


# Task 12 --------------------------------------------------------------------------------------------------------------


def pair_step(parameters, velocity, x1, x2, same, learning_rate, momentum=0.0, l2=0.0):
    """Take one step of the paper's learning on a minibatch of pairs (§3.2).

    x1, x2: (N, 1, size, size) of the parameters' dtype, in [0, 1], 1 = ink; same: (N,) bool
    velocity: {} at first, then what the last step returned; learning_rate, momentum, l2: as in learning.sgd
    Returns the new parameters, with the running statistics that both twins leave, the new velocity, and the loss
    before the step, in nats.
    """
    raise NotImplementedError("Task 12: forwards, loss, backwards, sgd; and both twins leave running statistics")


def train_on_pairs(parameters, drawings, rng, n_pairs=256, n_epochs=10, batch=32, learning_rate=0.05, momentum=0.9):
    """Train a net on pairs, drawn once, with the paper's schedule: the pairs in another order each epoch (§3.2).

    parameters: as initial_parameters draws them; drawings: Drawings; rng: numpy.random.Generator
    learning_rate: at the start, 1 % less each epoch; momentum: from 0.5 in a line to this one at the last epoch
    Returns the trained parameters, and the mean loss of each epoch, (n_epochs,) in nats.
    """
    raise NotImplementedError("Task 12: epochs of minibatches in another order each time")

"""The paper's own learning, on single pairs (§3.2, §4.2), in NumPy: the end of the course's assignment."""

from typing import NamedTuple

import numpy as np

from . import layers, learning, network
from .data import UserError, to_input

class Pairs(NamedTuple):
    """Hold pairs of drawings: are the two of one character?

    first, second: (n,) int64, indices into images.reshape(-1, H, W) of the drawings; same: (n,) bool
    """

    first: np.ndarray
    second: np.ndarray
    same: np.ndarray

def draw_pairs(drawings, n_pairs, rng):
    """Draw pairs, equal numbers of each alphabet (§4.2).

    ours: both drawings are of one alphabet, and every other pair is of one character; the paper prints neither.
    drawings: Drawings with every drawer's drawing of every character; alphabets of one character are left out
    rng: numpy.random.Generator
    Returns Pairs: a same pair is of two different drawings, a different one of two characters of one alphabet, each
    by any drawer. Drawn directly: nothing is drawn and thrown away. Raises UserError when no alphabet is left.
    """
    n_drawers, n_characters = drawings.images.shape[1], np.bincount(drawings.alphabet, minlength=len(drawings.names))
    large = np.flatnonzero(n_characters >= 2)
    if not len(large) or n_drawers < 2:
        raise UserError("pairs take two characters of an alphabet, two drawings each")
    by_alphabet = np.argsort(drawings.alphabet, kind="stable")  # the characters, alphabet after alphabet
    i = np.arange(n_pairs)
    same, a = i % 2 == 0, large[i // 2 % len(large)]  # a: each pair's alphabet
    start, size = (np.cumsum(n_characters) - n_characters)[a], n_characters[a]
    place, drawer = rng.integers(size), rng.integers(n_drawers, size=n_pairs)
    # Another character, or another drawing, is so many steps further round.
    other_place = np.where(same, place, (place + 1 + rng.integers(size - 1)) % size)
    further = rng.integers(n_drawers - 1, size=n_pairs)
    other_drawer = np.where(same, (drawer + 1 + further) % n_drawers, rng.integers(n_drawers, size=n_pairs))
    first, second = by_alphabet[start + place], by_alphabet[start + other_place]
    return Pairs(first * n_drawers + drawer, second * n_drawers + other_drawer, same)

def pair_step(parameters, velocity, x1, x2, same, learning_rate, momentum=0.0, l2=0.0):
    """Take one step of the paper's learning on a minibatch of pairs (§3.2).

    x1, x2: (N, 1, size, size) of the parameters' dtype, in [0, 1], 1 = ink; same: (N,) bool
    velocity: {} at first, then what the last step returned; learning_rate, momentum, l2: as in learning.sgd
    Returns the new parameters, with the running statistics that both twins leave, the new velocity, and the loss
    before the step, in nats.
    """
    logits, cache = network.siamese_forward(parameters, x1, x2, training=True)
    loss, slope = layers.bce_with_logits_forward(logits, same)
    gradients = network.siamese_backward(layers.bce_with_logits_backward(1.0, slope), cache)
    for twin in cache[:2]:
        parameters = network.running_statistics(parameters, twin)
    return *learning.sgd(parameters, gradients, velocity, learning_rate, momentum, l2), loss

def train_on_pairs(parameters, drawings, rng, n_pairs=256, n_epochs=10, batch=32, learning_rate=0.05, momentum=0.9):
    """Train a net on pairs, drawn once, with the paper's schedule: the pairs in another order each epoch (§3.2).

    parameters: as initial_parameters draws them; drawings: Drawings; rng: numpy.random.Generator
    learning_rate: at the start, 1 % less each epoch; momentum: from 0.5 in a line to this one at the last epoch
    Returns the trained parameters, and the mean loss of each epoch, (n_epochs,) in nats.
    """
    pairs, size = draw_pairs(drawings, n_pairs, rng), network.size_of(parameters)
    images = drawings.images.reshape(-1, *drawings.images.shape[2:])
    velocity, losses = {}, np.zeros(n_epochs)
    for epoch in range(n_epochs):
        eta = learning.paper_learning_rate(epoch, learning_rate)
        mu = learning.paper_momentum(epoch, momentum, max(1, n_epochs - 1))
        for chosen in np.array_split(rng.permutation(n_pairs), -(-n_pairs // batch)):  # nearly equal parts
            x1, x2 = (to_input(images[which[chosen]], size) for which in (pairs.first, pairs.second))
            parameters, velocity, loss = pair_step(parameters, velocity, x1, x2, pairs.same[chosen], eta, mu)
            losses[epoch] += loss * len(chosen) / n_pairs
    return parameters, losses

"""Task 8: the whole twin net, forwards and backwards (§3.1), over koch.py's parameter names.

parameters: {name: array}, as initial_parameters(size, rng) draws them: print their names and shapes first. TWINS[size]
says which layers there are; layer i has the parameters "twin.i. ...". conv2d_same is pad_forward, then conv2d_forward.
The layers may be those of given.py, given.conv2d_forward and so on, so that this task can be had before the others are
right; when yours are, import yours. It is marked with nets of 15x15 and of 35x35 pixels.
"""

import given  # noqa: F401
from given import TWINS, initial_parameters, running_statistics, size_of  # noqa: F401


def features_forward(parameters, images, training=False):
    """Compute one twin's features.

    images: (N, 1, size, size) of the parameters' dtype, in [0, 1], 1 = ink
    training: batch normalisation, where there is one, uses this minibatch's statistics; see running_statistics
    Returns h (N, D), D = 4096 at size 105, else 512, and the cache.
    """
    raise NotImplementedError("Task 8: one layer after the other, each with its cache kept")


def features_backward(dh, caches):
    """Return {name: gradient} of the parameters of one twin, from the loss's gradient by its features dh (N, D)."""
    raise NotImplementedError("Task 8: the same layers from the last to the first")


def siamese_forward(parameters, x1, x2, training=False):
    """Return the logit that each two images are of one character (§3.1).

    x1, x2: (N, 1, size, size) of the parameters' dtype, in [0, 1], 1 = ink
    In training each twin is normalised by its own minibatch; koch.py normalises both together.
    Returns logits (N,) and the cache. p = sigmoid(logit).
    """
    raise NotImplementedError("Task 8: the second twin starts from the running statistics that the first left")


def siamese_backward(dlogits, cache):
    """Return {name: gradient} of every parameter, from the loss's gradient by the logits dlogits (N,)."""
    raise NotImplementedError("Task 8: a weight moves the loss through h1 and through h2")

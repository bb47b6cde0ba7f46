"""Task 9: the paper's gradient descent (§3.2), as pure functions.

parameters, gradients: {name: array}; what has no gradient (running statistics) stays as it is
A setting that differs from layer to layer is a dict {layer: number}, such as {"twin.0": 0.01, "join": 0.001}; a number
alone is every layer's.
"""

from given import decays, of_layer  # noqa: F401  is it a weight, and its layer's setting


def sgd(parameters, gradients, velocity, learning_rate, momentum=0.0, l2=0.0):
    """Take one step of gradient descent with momentum and an L2 penalty, layer by layer (§3.2).

    velocity: {} at first, then what the last step returned
    learning_rate, momentum, l2: the paper's eta_j, mu_j, lambda_j; each a number or {layer: number}
    Returns the new parameters and the new velocity:
        velocity = momentum * velocity - learning_rate * (gradient + 2 * l2 * w), w = w + velocity
    The penalty is on weights, not on biases. (The paper prints + 2 lambda |w|; the intent is decay.)
    """
    raise NotImplementedError("Task 9: velocity first, then the step; nothing in place")


def paper_learning_rate(epoch, learning_rate):
    """Return a learning rate at an epoch 0, 1, ...: it falls by 1 % an epoch (§3.2)."""
    raise NotImplementedError("Task 9: 1 % less each epoch")


def paper_momentum(epoch, momentum, n_epochs):
    """Return a momentum at an epoch 0, 1, ...: from 0.5 in a line to mu_j at n_epochs, then constant (§3.2).

    The paper does not print how long the line is.
    """
    raise NotImplementedError("Task 9: a line, then a constant")

"""Learning (§3.2): steps of gradient descent on parameters, as pure functions, and the schedules of their rates.

parameters, gradients: {name: array}, as in network.py; what has no gradient (running statistics) stays as it is
A setting that differs from layer to layer is a dict {layer: number}, such as {"twin.0": 0.01, "join": 0.001}; a number
alone is every layer's.
"""

import math

import numpy as np

from .products import product

def of_layer(setting, name):
    """Return the setting of the layer that the parameter belongs to: "twin.0" of "twin.0.weight"."""
    number = setting[name.rpartition(".")[0]] if isinstance(setting, dict) else setting
    return float(number)  # a number of NumPy's would make float64 of float32

def sgd(parameters, gradients, velocity, learning_rate, momentum=0.0, l2=0.0):
    """Take one step of gradient descent with momentum and an L2 penalty, layer by layer (§3.2).

    velocity: {} at first, then what the last step returned
    learning_rate, momentum, l2: the paper's eta_j, mu_j, lambda_j; each a number or {layer: number}
    Returns the new parameters and the new velocity:
        velocity = momentum * velocity - learning_rate * (gradient + 2 * l2 * w), w = w + velocity
    The penalty is on weights, not on biases. (The paper prints + 2 lambda |w|; the intent is decay.)
    """
    new, moved = dict(parameters), {}
    for name, gradient in gradients.items():
        w = parameters[name]
        if decays(name, w):
            gradient = gradient + 2 * of_layer(l2, name) * w
        moved[name] = of_layer(momentum, name) * velocity.get(name, 0.0) - of_layer(learning_rate, name) * gradient
        new[name] = w + moved[name]
    return new, moved

def decays(name, w):
    """Say whether a parameter is a weight: no bias, and no scale or shift of batch normalisation."""
    return name.endswith("weight") and w.ndim > 1

def paper_learning_rate(epoch, learning_rate):
    """Return a learning rate at an epoch 0, 1, ...: it falls by 1 % an epoch (§3.2)."""
    return learning_rate * 0.99**epoch

def paper_momentum(epoch, momentum, n_epochs):
    """Return a momentum at an epoch 0, 1, ...: from 0.5 in a line to mu_j at n_epochs, then constant (§3.2).

    The paper does not print how long the line is.
    """
    return 0.5 + (momentum - 0.5) * min(1.0, epoch / n_epochs)

def warmup_cosine(step, n_steps, warmup):
    """Return the learning rates' factor at a step 0, 1, ...: up in a line, down along a cosine (koch.py's fast)."""
    return min(1.0, (step + 1) / max(1, warmup)) * 0.5 * (1 + math.cos(math.pi * step / n_steps))

def muon(parameters, gradients, velocity, learning_rate, weight_decay=0.0, momentum=0.95):
    """Take one step of Muon: along the momentum, with all its singular values made about equal.

    For weights of two axes or more, (n_out, ...), all that gradients names. deviates: §3.2 has plain momentum. Idea and
    coefficients: Keller Jordan, github.com/KellerJordan/Muon.
    Returns the new parameters and the new velocity ({} at first).
    """
    learning_rate, weight_decay = float(learning_rate), float(weight_decay)  # as in of_layer
    new, moved = dict(parameters), {}
    for name, gradient in gradients.items():
        w = parameters[name]
        moved[name] = momentum * velocity.get(name, 0.0) + (1 - momentum) * gradient
        update = (1 - momentum) * gradient + momentum * moved[name]  # Nesterov's: a look ahead
        update = orthogonal(update.reshape(len(w), -1)).reshape(w.shape)
        new[name] = w * (1 - learning_rate * weight_decay) - learning_rate * update
    return new, moved

def orthogonal(matrix):
    """Return a matrix with the same singular vectors and singular values nearer to each other, by Newton and Schulz."""
    x = matrix / (np.sqrt((matrix * matrix).sum()) + 1e-7)
    x = x if x.shape[0] <= x.shape[1] else x.T
    for _ in range(3):
        square = product(x, x.T)
        x = 3.4445 * x + product(2.0315 * product(square, square) - 4.7750 * square, x)
    return x if matrix.shape[0] <= matrix.shape[1] else x.T

def adamw(parameters, gradients, moments, learning_rate, weight_decay=0.0, beta1=0.9, beta2=0.999, epsilon=1e-8):
    """Take one step of AdamW: each number's step is its mean gradient over its root mean square one.

    deviates: §3.2 has plain momentum. (Kingma and Ba 2015; decay apart from the gradient: Loshchilov and Hutter 2019.)
    moments: {} at first, then what the last step returned: {name: (mean, mean square, steps)}
    Returns the new parameters and the new moments.
    """
    learning_rate, weight_decay = float(learning_rate), float(weight_decay)  # as in of_layer
    new, moved = dict(parameters), {}
    for name, gradient in gradients.items():
        mean, square, steps = moments.get(name, (0.0, 0.0, 0))
        steps += 1
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * gradient * gradient
        moved[name] = mean, square, steps
        step = mean / (1 - beta1**steps) / (np.sqrt(square / (1 - beta2**steps)) + epsilon)
        new[name] = parameters[name] * (1 - learning_rate * weight_decay) - learning_rate * step
    return new, moved

"""What your files may use and you need not write: from given import NAME. Leave this file as it is.

Where your work is marked, another given.py stands in its place. It has the same names; those that are the answer to a
task can be called from network.py (the layers) and from pairs.py (layers, net and learning), and from nowhere else.
"""

from reference_numpy.data import Drawings, Trials, UserError, to_input  # noqa: F401
from reference_numpy.jit import kernel  # noqa: F401  numba.njit that keeps the machine code, where it can
from reference_numpy.layers import (  # noqa: F401
    batchnorm_backward, batchnorm_forward, batchnorm_running, bce_with_logits_backward, bce_with_logits_forward, check,
    conv2d_backward, conv2d_forward, l1_join_backward, l1_join_forward, linear_backward, linear_forward,
    maxpool2x2_backward, maxpool2x2_forward, pad_backward, pad_forward, relu_backward, relu_forward, sigmoid_backward,
    sigmoid_forward, softmax_cross_entropy_backward, softmax_cross_entropy_forward, unbroadcast,
)  # fmt: skip
from reference_numpy.learning import decays, of_layer, paper_learning_rate, paper_momentum, sgd  # noqa: F401
from reference_numpy.network import CONVOLUTIONS, LINEAR, TWINS, initial_parameters, running_statistics  # noqa: F401
from reference_numpy.network import features_backward, features_forward, siamese_backward, siamese_forward  # noqa: F401
from reference_numpy.network import size_of  # noqa: F401
from reference_numpy.pairs import Pairs  # noqa: F401  a NamedTuple of first, second and same

# A net of the same kinds of layers as the reduced one, on 15x15 pixels: so small that tasks 8 and 12 are marked with it.
TWINS[15] = "conv2d maxpool2x2 batchnorm relu conv2d_same maxpool2x2 batchnorm relu flatten linear batchnorm".split()
CONVOLUTIONS[15], LINEAR[15] = ((8, 1, 4, 4), (16, 8, 3, 3)), (32, 144)

"""The twin net of koch.py (§3.1): parameters by koch.py's names, forwards and backwards.

parameters: {name: array} with the names, shapes and order of koch.SiameseNet(size).state_dict(), so that weights move
both ways: {name: tensor.numpy() for name, tensor in net.state_dict().items()}, and torch.from_numpy(array) back.
"""

import numpy as np

from . import layers

# The layers in koch.py's order, so that layer i has the parameters "twin.i. ...". conv2d_same is a convolution with a
# margin of one zero around its input: a 3x3 filter then leaves the size as it is.
TWINS = {
    105: (  # the comments give the output's shape for one image
        "conv2d relu maxpool2x2 "  # (64, 96, 96) -> (64, 48, 48)
        "conv2d relu maxpool2x2 "  # (128, 42, 42) -> (128, 21, 21)
        "conv2d relu maxpool2x2 "  # (128, 18, 18) -> (128, 9, 9)
        "conv2d relu "  # (256, 6, 6)
        "flatten linear sigmoid"  # (9216,) -> (4096,)
    ).split(),
    35: (  # ours: §4.4 has "a reduced version of our model" and does not print it
        "conv2d maxpool2x2 batchnorm relu "  # (32, 32, 32) -> (32, 16, 16)
        "conv2d_same batchnorm relu "  # (64, 16, 16)
        "conv2d_same maxpool2x2 batchnorm relu "  # (64, 8, 8)
        "conv2d_same batchnorm relu "  # (64, 8, 8)
        "conv2d_same maxpool2x2 batchnorm relu "  # (128, 4, 4)
        "conv2d_same maxpool2x2 batchnorm relu "  # (256, 2, 2)
        "flatten linear batchnorm"  # (1024,) -> (512,)
    ).split(),
}
TWINS[51] = TWINS[35]  # (256, 3, 3) before the flattening
CONVOLUTIONS = {  # filters (F, C, KH, KW), in order
    105: ((64, 1, 10, 10), (128, 64, 7, 7), (128, 128, 4, 4), (256, 128, 4, 4)),
    35: ((32, 1, 4, 4), (64, 32, 3, 3), (64, 64, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3), (256, 128, 3, 3)),
}
CONVOLUTIONS[51] = CONVOLUTIONS[35]
LINEAR = {105: (4096, 9216), 35: (512, 1024), 51: (512, 2304)}  # (features, inputs)

def initial_parameters(size, rng, dtype=np.float32):
    """Draw a net's parameters as koch.py does at its start.

    size: 105, 51 or 35, in pixels; rng: numpy.random.Generator
    Returns {name: array}. Raises ValueError for another size.
    """
    if size not in TWINS:
        raise ValueError(f"size is one of {tuple(TWINS)}, not {size}")
    parameters, shapes, channels = {}, iter(CONVOLUTIONS[size]), 0
    for i, kind in enumerate(TWINS[size]):
        name = f"twin.{i}"
        if kind.startswith("conv2d") or kind == "linear":
            shape = LINEAR[size] if kind == "linear" else next(shapes)
            channels, n_in = shape[0], np.prod(shape[1:])
            if size == 105:  # deviates: He's initialisation; §3.2 has N(0, 0.01) and N(0, 0.2)
                weight = rng.normal(0, np.sqrt(2 / n_in), shape)
            else:
                weight = rng.uniform(-1, 1, shape) / np.sqrt(n_in)
            parameters[f"{name}.weight"] = weight
            if size == 105 or kind == "linear":
                parameters[f"{name}.bias"] = rng.uniform(-1, 1, channels) / np.sqrt(n_in)
        elif kind == "batchnorm":
            parameters[f"{name}.weight"], parameters[f"{name}.bias"] = np.ones(channels), np.zeros(channels)
            parameters[f"{name}.running_mean"] = np.zeros(channels)
            parameters[f"{name}.running_var"] = np.ones(channels)
            parameters[f"{name}.num_batches_tracked"] = np.array(0)
    parameters["join.weight"] = np.full((1, channels), -4 / channels)  # deviates: far apart means not the same
    parameters["join.bias"] = rng.uniform(-1, 1, 1) / np.sqrt(channels)
    return {n: p if p.dtype == np.int64 else p.astype(dtype) for n, p in parameters.items()}

def size_of(parameters):
    """Return the size in pixels of the net that has these parameters. Raises ValueError for another net's."""
    first = np.shape(parameters.get("twin.0.weight"))
    for size, kinds in TWINS.items():
        linear = np.shape(parameters.get(f"twin.{kinds.index('linear')}.weight"))
        if (first, linear) == (CONVOLUTIONS[size][0], LINEAR[size]):
            return size
    sizes = " or ".join(map(str, TWINS))
    raise ValueError(f"no net of size {sizes} has first filters of shape {first} and a linear layer as this")

def features_forward(parameters, images, training=False):
    """Compute one twin's features.

    images: (N, 1, size, size) of the parameters' dtype, in [0, 1], 1 = ink
    training: batch normalisation, where there is one, uses this minibatch's statistics; see running_statistics
    Returns h (N, D), D = 4096 at size 105, else 512, and the cache.
    """
    x, caches, p, size = images, [], parameters, size_of(parameters)
    if images.shape[1:] != (1, size, size):
        raise ValueError(f"images are (N, 1, {size}, {size}) for these parameters, not {images.shape}")
    for i, kind in enumerate(TWINS[size]):
        name = f"twin.{i}"
        if kind == "conv2d":
            x, cache = layers.conv2d_forward(x, p[f"{name}.weight"], p.get(f"{name}.bias"))
        elif kind == "conv2d_same":
            x, margin = layers.pad_forward(x)
            x, cache = layers.conv2d_forward(x, p[f"{name}.weight"], p.get(f"{name}.bias"))
            cache = cache, margin
        elif kind == "linear":
            x, cache = layers.linear_forward(x, p[f"{name}.weight"], p[f"{name}.bias"])
        elif kind == "batchnorm":
            statistics = p[f"{name}.running_mean"], p[f"{name}.running_var"]
            x, cache = layers.batchnorm_forward(x, p[f"{name}.weight"], p[f"{name}.bias"], *statistics, training)
        elif kind == "flatten":
            x, cache = x.reshape(len(x), -1), x.shape  # (N, C, H, W) -> (N, C * H * W)
        else:
            x, cache = getattr(layers, f"{kind}_forward")(x)
        caches.append((kind, name, cache))
    return x, caches

def features_backward(dh, caches):
    """Return {name: gradient} of the parameters of one twin, from the loss's gradient by its features dh (N, D)."""
    gradients, dx = {}, dh
    for kind, name, cache in reversed(caches):
        if kind == "flatten":
            dx = dx.reshape(cache)
        elif kind in ("conv2d", "conv2d_same", "linear", "batchnorm"):
            inner, margin = cache if kind == "conv2d_same" else (cache, None)
            backward = getattr(layers, f"{kind.removesuffix('_same')}_backward")
            dx, gradients[f"{name}.weight"], bias = backward(dx, inner)
            if bias is not None:
                gradients[f"{name}.bias"] = bias
            if margin:
                dx = layers.pad_backward(dx, margin)
        else:
            dx = getattr(layers, f"{kind}_backward")(dx, cache)
    return gradients

def running_statistics(parameters, caches):
    """Return the parameters with the running statistics that a forward pass in training leaves; the rest is shared."""
    new = dict(parameters)
    for kind, name, cache in caches:
        if kind == "batchnorm":
            new[f"{name}.running_mean"], new[f"{name}.running_var"] = layers.batchnorm_running(cache)
            new[f"{name}.num_batches_tracked"] = np.array(parameters[f"{name}.num_batches_tracked"] + 1)
    return new

def siamese_forward(parameters, x1, x2, training=False):
    """Return the logit that each two images are of one character (§3.1).

    x1, x2: (N, 1, size, size) of the parameters' dtype, in [0, 1], 1 = ink
    In training each twin is normalised by its own minibatch; koch.py normalises both together.
    Returns logits (N,) and the cache. p = sigmoid(logit).
    """
    h1, twin1 = features_forward(parameters, x1, training)
    after = running_statistics(parameters, twin1) if training else parameters
    h2, twin2 = features_forward(after, x2, training)
    logits, join = layers.l1_join_forward(h1, h2, parameters["join.weight"], parameters["join.bias"])
    return logits, (twin1, twin2, join)

def siamese_backward(dlogits, cache):
    """Return {name: gradient} of every parameter, from the loss's gradient by the logits dlogits (N,)."""
    twin1, twin2, join = cache
    dh1, dh2, dalpha, dbias = layers.l1_join_backward(dlogits, join)
    first, second = features_backward(dh1, twin1), features_backward(dh2, twin2)
    # §3.2: the twins share their weights. A weight moves the loss through h1 and through h2, and the slopes add.
    for name in first:
        first[name] += second[name]  # in place: the arrays are ours, and at size 105 a third set would be 156 MB
    return first | {"join.weight": dalpha, "join.bias": dbias}

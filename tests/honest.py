"""Two solutions of the assignment's layers, learning and sampling that were written without a look at the reference."""

LOOPS = {
    "layers": '''
import numpy as np


def linear_forward(x, w, b):
    out = np.zeros((x.shape[0], w.shape[0]), dtype=x.dtype)
    for n in range(x.shape[0]):
        for m in range(w.shape[0]):
            out[n, m] = np.sum(x[n] * w[m]) + b[m]
    return out, (x.copy(), w.copy())


def linear_backward(dout, cache):
    x, w = cache
    dx = np.zeros_like(x)
    dw = np.zeros_like(w)
    for n in range(x.shape[0]):
        for m in range(w.shape[0]):
            dx[n] += dout[n, m] * w[m]
            dw[m] += dout[n, m] * x[n]
    db = np.sum(dout, axis=0)
    return dx, dw, db


def relu_forward(x):
    out = x.copy()
    out[x < 0] = 0
    return out, x.copy()


def relu_backward(dout, cache):
    dx = dout.copy()
    dx[cache <= 0] = 0
    return dx


def sigmoid_forward(x):
    out = np.zeros_like(x)
    pos = x >= 0
    out[pos] = 1.0 / (1.0 + np.exp(-x[pos]))
    ex = np.exp(x[~pos])
    out[~pos] = ex / (1.0 + ex)
    return out, out.copy()


def sigmoid_backward(dout, s):
    return dout * (s - s ** 2)


def conv2d_forward(x, w, b=None, rung="blocked"):
    N, C, H, W = x.shape
    F, _, KH, KW = w.shape
    out = np.zeros((N, F, H - KH + 1, W - KW + 1), dtype=x.dtype)
    for n in range(N):
        for f in range(F):
            for i in range(out.shape[2]):
                for j in range(out.shape[3]):
                    window = x[n, :, i:i + KH, j:j + KW]
                    out[n, f, i, j] = np.sum(window * w[f])
                    if b is not None:
                        out[n, f, i, j] += b[f]
    return out, {"x": x.copy(), "w": w.copy(), "bias": b is not None}


def conv2d_backward(dout, cache):
    x = cache["x"]
    w = cache["w"]
    dx = np.zeros_like(x)
    dw = np.zeros_like(w)
    KH, KW = w.shape[2], w.shape[3]
    for n in range(dout.shape[0]):
        for f in range(dout.shape[1]):
            for i in range(dout.shape[2]):
                for j in range(dout.shape[3]):
                    g = dout[n, f, i, j]
                    dx[n, :, i:i + KH, j:j + KW] += g * w[f]
                    dw[f] += g * x[n, :, i:i + KH, j:j + KW]
    db = None
    if cache["bias"]:
        db = dout.sum(axis=(0, 2, 3))
    return dx, dw, db


def maxpool2x2_forward(x):
    N, C, H, W = x.shape
    out = np.zeros((N, C, H // 2, W // 2), dtype=x.dtype)
    for i in range(H // 2):
        for j in range(W // 2):
            out[:, :, i, j] = np.max(x[:, :, 2 * i:2 * i + 2, 2 * j:2 * j + 2], axis=(2, 3))
    return out, (x.copy(), out.copy())


def maxpool2x2_backward(dout, cache):
    x, out = cache
    dx = np.zeros_like(x)
    for n in range(x.shape[0]):
        for c in range(x.shape[1]):
            for i in range(out.shape[2]):
                for j in range(out.shape[3]):
                    patch = x[n, c, 2 * i:2 * i + 2, 2 * j:2 * j + 2]
                    r, s = np.unravel_index(np.argmax(patch), (2, 2))
                    dx[n, c, 2 * i + r, 2 * j + s] = dout[n, c, i, j]
    return dx


def l1_join_forward(h1, h2, alpha, bias):
    d = np.abs(h1 - h2)
    logits = np.sum(d * alpha[0], axis=-1) + bias[0]
    return logits, (h1.copy(), h2.copy(), alpha.copy())


def reduce_to(g, shape):
    while g.ndim > len(shape):
        g = g.sum(axis=0)
    for axis in range(len(shape)):
        if shape[axis] == 1 and g.shape[axis] != 1:
            g = g.sum(axis=axis, keepdims=True)
    return g


def l1_join_backward(dout, cache):
    h1, h2, alpha = cache
    diff = h1 - h2
    up = np.expand_dims(dout, -1) * alpha[0] * np.sign(diff)
    axes = tuple(range(dout.ndim))
    dalpha = np.sum(np.expand_dims(dout, -1) * np.abs(diff), axis=axes).reshape(1, -1)
    dbias = np.array([np.sum(dout)], dtype=dout.dtype)
    return reduce_to(up, h1.shape), reduce_to(-up, h2.shape), dalpha, dbias


def bce_with_logits_forward(logits, same):
    y = np.asarray(same).astype(logits.dtype)
    total = 0.0
    slopes = np.zeros_like(logits)
    for k in range(len(logits)):
        z = logits[k]
        if z > 0:
            total += (1 - y[k]) * z + np.log1p(np.exp(-z))
            p = 1 / (1 + np.exp(-z))
        else:
            total += -y[k] * z + np.log1p(np.exp(z))
            p = np.exp(z) / (1 + np.exp(z))
        slopes[k] = (p - y[k]) / len(logits)
    return logits.dtype.type(total / len(logits)), slopes


def bce_with_logits_backward(dout, slopes):
    return (slopes * dout).astype(slopes.dtype)
''',
    "learning": '''
from given import decays, of_layer


def sgd(parameters, gradients, velocity, learning_rate, momentum=0.0, l2=0.0):
    after = {}
    v_after = {}
    for key in parameters:
        if key not in gradients:
            after[key] = parameters[key]
            continue
        eta = of_layer(learning_rate, key)
        mu = of_layer(momentum, key)
        lam = of_layer(l2, key)
        g = gradients[key].copy()
        if decays(key, parameters[key]):
            g += 2 * lam * parameters[key]
        v = -eta * g
        if key in velocity:
            v += mu * velocity[key]
        v_after[key] = v
        after[key] = parameters[key] + v
    return after, v_after


def paper_learning_rate(epoch, learning_rate):
    for _ in range(epoch):
        learning_rate = learning_rate * 0.99
    return learning_rate


def paper_momentum(epoch, momentum, n_epochs):
    if epoch >= n_epochs:
        return momentum
    step = (momentum - 0.5) / n_epochs
    return 0.5 + epoch * step
''',
    "data": '''
import numpy as np
from given import Trials, UserError


def one_shot_trials(drawings, n_way, n_trials, rng):
    C, D, H, W = drawings.images.shape
    usable = []
    for a in range(len(drawings.names)):
        members = [c for c in range(C) if drawings.alphabet[c] == a]
        if len(members) >= n_way:
            usable.append(members)
    if len(usable) == 0 or D < 2:
        raise UserError("too few characters or drawers")
    test = np.zeros(n_trials, dtype=np.int64)
    support = np.zeros((n_trials, n_way), dtype=np.int64)
    answers = np.zeros(n_trials, dtype=np.int64)
    for t in range(n_trials):
        members = usable[t % len(usable)]
        chosen = rng.choice(members, n_way, replace=False)
        d1, d2 = rng.choice(D, 2, replace=False)
        right = int(rng.integers(0, n_way))
        for k in range(n_way):
            support[t, k] = chosen[k] * D + d1
        test[t] = chosen[right] * D + d2
        answers[t] = right
    return Trials(drawings.images.reshape(C * D, H, W), test, support, answers)


def one_shot_answers(features, logit, trials):
    h = features(trials.images)
    out = []
    for t in range(len(trials.test)):
        s = h[trials.support[t]]
        q = np.tile(h[trials.test[t]], (len(s), 1))
        z = np.asarray(logit(q, s))
        if np.any(np.isnan(z)):
            out.append(-1)
            continue
        order = np.sort(z)
        if len(z) > 1 and order[-1] == order[-2]:
            out.append(-1)
        else:
            out.append(int(np.argmax(z)))
    return np.array(out, dtype=np.int64)
''',
}

ARRAYS = {
    "layers": '''
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def linear_forward(x, w, b):
    return np.einsum("nd,md->nm", x, w) + b[None, :], dict(inp=x, weight=w)


def linear_backward(dout, cache):
    grad_in = np.einsum("nm,md->nd", dout, cache["weight"])
    grad_w = np.einsum("nm,nd->md", dout, cache["inp"])
    grad_b = np.ones(len(dout), dout.dtype) @ dout
    return grad_in, grad_w, grad_b


def relu_forward(x):
    mask = (x > 0).astype(x.dtype)
    return x * mask, mask


def relu_backward(dout, mask):
    return mask * dout


def sigmoid_forward(x):
    y = 0.5 * (np.tanh(0.5 * x) + 1)
    return y, y + 0


def sigmoid_backward(dout, y):
    return dout * y * (1 - y)


def conv2d_forward(x, w, b=None, rung="blocked"):
    patches = sliding_window_view(x, w.shape[2:], axis=(2, 3))  # n c y z i j
    y = np.tensordot(patches, w, axes=((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2)
    if b is not None:
        y = y + b.reshape(1, -1, 1, 1)
    return np.ascontiguousarray(y), (x, w, b)


def conv2d_backward(dout, cache):
    x, w, b = cache
    kh, kw = w.shape[-2:]
    patches = sliding_window_view(x, (kh, kw), axis=(2, 3))
    gw = np.tensordot(dout, patches, axes=((0, 2, 3), (0, 2, 3)))
    wide = np.pad(dout, ((0, 0), (0, 0), (kh - 1, kh - 1), (kw - 1, kw - 1)))
    around = sliding_window_view(wide, (kh, kw), axis=(2, 3))
    gx = np.tensordot(around, np.flip(w, (2, 3)), axes=((1, 4, 5), (0, 2, 3))).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(gx), gw, None if b is None else np.einsum("nfyz->f", dout)


def maxpool2x2_forward(x):
    n, c, h, w = x.shape
    blocks = x[:, :, : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2, 2).swapaxes(3, 4)
    flat = blocks.reshape(n, c, h // 2, w // 2, 4)
    index = flat.argmax(-1)[..., None]
    return np.take_along_axis(flat, index, -1)[..., 0], (index, x.shape)


def maxpool2x2_backward(dout, cache):
    index, (n, c, h, w) = cache
    flat = np.zeros(index.shape[:-1] + (4,), dout.dtype)
    np.put_along_axis(flat, index, dout[..., None], -1)
    gx = np.zeros((n, c, h, w), dout.dtype)
    gx[:, :, : h // 2 * 2, : w // 2 * 2] = (
        flat.reshape(n, c, h // 2, w // 2, 2, 2).swapaxes(3, 4).reshape(n, c, h // 2 * 2, w // 2 * 2)
    )
    return gx


def l1_join_forward(h1, h2, alpha, bias):
    return np.abs(h1 - h2) @ alpha[0] + bias, (h1, h2, alpha)


def l1_join_backward(dout, cache):
    from given import unbroadcast

    h1, h2, alpha = cache
    sign = np.where(h1 > h2, 1, np.where(h1 < h2, -1, 0)).astype(h1.dtype)
    towards = dout[..., None] * sign * alpha.ravel()
    weights = (dout[..., None] * np.abs(h1 - h2)).reshape(-1, alpha.size).sum(0, keepdims=True)
    return unbroadcast(towards, h1.shape), unbroadcast(-towards, h2.shape), weights, dout.reshape(-1).sum(keepdims=True)


def bce_with_logits_forward(logits, same):
    target = np.where(same, 1, 0).astype(logits.dtype)
    losses = np.logaddexp(0, logits) - target * logits
    probability, _ = sigmoid_forward(logits)
    return losses.mean(), (probability - target) / logits.dtype.type(len(target))


def bce_with_logits_backward(dout, gradient):
    return gradient * gradient.dtype.type(dout)
''',
    "learning": '''
from given import decays, of_layer


def sgd(parameters, gradients, velocity, learning_rate, momentum=0.0, l2=0.0):
    def penalty(name):
        return 2 * of_layer(l2, name) * parameters[name] if decays(name, parameters[name]) else 0

    moves = {
        name: of_layer(momentum, name) * velocity.get(name, 0 * slope)
        - of_layer(learning_rate, name) * (slope + penalty(name))
        for name, slope in gradients.items()
    }
    return {name: value + moves[name] if name in moves else value for name, value in parameters.items()}, moves


def paper_learning_rate(epoch, learning_rate):
    return learning_rate * pow(0.99, epoch)


def paper_momentum(epoch, momentum, n_epochs):
    share = epoch / n_epochs if epoch < n_epochs else 1
    return (1 - share) * 0.5 + share * momentum
''',
    "pairs": '''
import numpy as np
from given import Pairs, UserError


def draw_pairs(drawings, n_pairs, rng):
    n_drawers = drawings.images.shape[1]
    pools = [np.where(drawings.alphabet == a)[0] for a in np.unique(drawings.alphabet)]
    pools = [pool for pool in pools if pool.size > 1]
    if not pools:
        raise UserError("no alphabet has two characters")
    rows = []
    for k in range(n_pairs):
        pool = pools[(k // 2) % len(pools)]
        if k % 2:
            one, two = rng.choice(pool, 2, replace=False)
            drawer, other = rng.integers(0, n_drawers, 2)
        else:
            one = two = rng.choice(pool)
            drawer, other = rng.choice(n_drawers, 2, replace=False)
        rows.append((one * n_drawers + drawer, two * n_drawers + other, k % 2 == 0))
    first, second, same = map(np.array, zip(*rows))
    return Pairs(first, second, same)
''',
}

HONEST = {"loops": LOOPS, "arrays": ARRAYS}

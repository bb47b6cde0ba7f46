"""Open variants A to D: layers that the project does not have, so that no solution of them is public.

Everything that layers.py says of its functions holds here. They are marked against torch. A variant counts as handed in
when its functions no longer raise the error that they raise now.
"""

import numpy as np  # noqa: F401


def conv2d_stride2_forward(x, w, b):
    """Slide filters over images, two pixels at a time, no padding.

    x: (N, C, H, W); w: (F, C, KH, KW), KH <= H and KW <= W; b: (F,)
    Returns out (N, F, (H - KH) // 2 + 1, (W - KW) // 2 + 1) and the cache.
    """
    raise NotImplementedError("Variant A: every other output of the convolution, and no work for the others")


def conv2d_stride2_backward(dout, cache):
    """Return dx, dw and db. Pixels that no filter reached have the gradient 0."""
    raise NotImplementedError("Variant A: each output gives a share to every pixel and every tap that made it")


def avgpool2x2_forward(x):
    """Take the mean of each 2x2 pixels: (N, C, H, W) -> (N, C, H // 2, W // 2); an odd last line is lost."""
    raise NotImplementedError("Variant B: what does it need to remember?")


def avgpool2x2_backward(dout, cache):
    """Return dx."""
    raise NotImplementedError("Variant B: each of the four pixels has a share")


def cosine_join_forward(h1, h2, scale, bias):
    """Return the logit of two images from the cosine of their features: scale * cos(h1, h2) + bias.

    h1, h2: (N, D), no row of zeros; scale, bias: (1,)
    Returns logits (N,) and the cache.
    """
    raise NotImplementedError("Variant C: the product of the features over the product of their lengths")


def cosine_join_backward(dout, cache):
    """Return dh1, dh2, dscale and dbias, the last two (1,)."""
    raise NotImplementedError("Variant C: the lengths move too")


def triplet_loss_forward(anchor, positive, negative, margin=0.2):
    """Return the mean over triplets of max(0, |anchor - positive|^2 - |anchor - negative|^2 + margin).

    anchor, positive, negative: (N, D) features of two drawings of one character and one of another; margin: a number
    """
    raise NotImplementedError("Variant D: squared Euclidean distances, not their roots")


def triplet_loss_backward(dout, cache):
    """Return danchor, dpositive and dnegative; dout is a number."""
    raise NotImplementedError("Variant D: a triplet that costs nothing has no slope")

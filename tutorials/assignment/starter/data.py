"""Task 11: one-shot trials and their answers (§4.3).

Drawings has images (characters, drawers, H, W), alphabet (characters,) and names; Trials has images (n, H, W), test
(n_trials,), support (n_trials, n_way) and answers (n_trials,): reference_numpy/data.py describes both.
"""

import numpy as np  # noqa: F401
from given import Trials, UserError  # noqa: F401


def one_shot_trials(drawings, n_way, n_trials, rng):
    """Draw trials within one alphabet: n_way different characters by one drawer, a test image of one by another.

    Alphabets take turns; those with fewer than n_way characters are left out. Raises UserError if all are.
    """
    raise NotImplementedError("Task 11: characters of one alphabet, two drawers, a random place for the answer")


def one_shot_answers(features, logit, trials):
    """Answer every trial alone: the position of the support image that is most likely the test image's character.

    features: (n, H, W) uint8 -> (n, D); logit: (n, D), (n, D) -> (n,)
    Returns (n_trials,) int64; -1 where the best logit is shared or any logit is not a number: those are wrong answers.
    """
    raise NotImplementedError("Task 11: the largest logit; a tie and a NaN are no answer, -1")

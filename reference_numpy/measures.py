"""What results are measured by: intervals, the receiver operating characteristic, thresholds, calibration (§4.2)."""

import numpy as np


def wilson_interval(n_right, n, z=1.96):
    """Return Wilson's 95 % interval of a fraction, (low, high) in 0..1: 368 right of 400 give 0.889..0.943."""
    p, centre = n_right / n, (n_right + z * z / 2) / (n + z * z)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def roc(logits, same):
    """Return the receiver operating characteristic of pairs, cut below every logit from the highest down.

    logits: (n,) float, NaN counts as the lowest; same: (n,) bool, with both kinds
    Returns the false and the true positive rate at each cut, (cuts,) in 0..1, and the thresholds (cuts,): from there up
    a pair is called the same. The first cut, at infinity, calls none the same, the last one all.
    """
    logits, same = np.nan_to_num(np.asarray(logits, float), nan=-np.inf, neginf=-np.inf), np.asarray(same)
    values, where = np.unique(-logits, return_inverse=True)
    counts = (np.bincount(where, weights=kind, minlength=len(values)).cumsum() for kind in (~same, same))
    rates = (np.concatenate([[0], count / count[-1]]) for count in counts)
    return *rates, np.concatenate([[np.inf], -values])


def area_and_equal_error(false, true):
    """Return the area under roc's curve, in 0..1, and the equal error rate: as many of each kind are mistaken there."""
    area = np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2)
    cut = np.argmax(false >= 1 - true)  # between this cut and the one before the two rates of mistakes cross
    before, after = 1 - true[cut - 1] - false[cut - 1], false[cut] - 1 + true[cut]
    return float(area), float(false[cut - 1] + before / (before + after) * (false[cut] - false[cut - 1]))


def choose_threshold(logits, same):
    """Return the logit above which calling pairs the same makes the fewest mistakes, half-way to the next pair's."""
    same = np.asarray(same)
    false, true, thresholds = roc(logits, same)
    best = int(np.argmax(true * same.sum() - false * (~same).sum()))
    below = np.append(thresholds[1:], thresholds[-1] - 1)[best]  # the highest logit that is called different
    return float(np.nan_to_num(below if best == 0 else (thresholds[best] + below) / 2))


def fit_log_odds(logits, same):
    """Fit the log-odds of being the same as scale * logit + offset by logistic regression.

    logits: (n,) float; same: (n,) bool
    Returns scale and offset; 1 and 0 where there is nothing to fit: numbers missing, or higher logits mean less alike.
    """
    x, y = np.stack([np.asarray(logits, float), np.ones(len(logits))]), np.asarray(same, float)
    fit, little = np.array([0.0, 0.0]), 0.01  # a little L2 for pairs that a line could part
    if np.isfinite(x).all():
        x[0] /= (spread := x[0].std() or 1.0)
        for _ in range(30):  # Newton's steps on the cross-entropy
            p = 1 / (1 + np.exp(-np.clip(fit @ x, -30, 30)))  # (n,)
            fit = fit + np.linalg.solve((x * p * (1 - p)) @ x.T + little * np.eye(2), x @ (y - p) - little * fit)
        fit[0] /= spread
    return (float(fit[0]), float(fit[1])) if fit[0] > 0 and np.isfinite(fit).all() else (1.0, 0.0)

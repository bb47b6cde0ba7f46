"""§4.3: the baselines that learn nothing have the distances of their formulas, and Lake's figures to the trial."""

import numpy as np
import pytest
import torch

import koch
from reference_numpy import data
from reference_numpy.baselines import ModifiedHausdorff, PixelNearestNeighbour, modified_hausdorff

scorers = pytest.mark.parametrize("scorer", [PixelNearestNeighbour(), ModifiedHausdorff()], ids=lambda s: s.name)


def by_formula(ink1, ink2):
    """Compute one distance from the whole table of distances between points."""
    a, b = (np.argwhere(ink) - np.argwhere(ink).mean(0) for ink in (ink1, ink2))
    table = np.sqrt(((a[:, None] - b) ** 2).sum(-1))
    return max(table.min(1).mean(), table.min(0).mean())


def sparse(draw, n, h, w):
    """Draw n images of noise, each with ink somewhere, the later ones with more of it."""
    ink = draw.random((n, h, w)) < np.linspace(0.05, 0.3, n)[:, None, None]
    ink[np.arange(n), draw.integers(h, size=n), draw.integers(w, size=n)] = True
    return ink


def image(*points, size=9):
    """Make an image (1, 1, size, size) with ink at points of (row, column)."""
    x = np.zeros((1, 1, size, size), np.float32)
    for row, column in points:
        x[0, 0, row, column] = 1
    return x


def logits(scorer, images1, images2):
    return scorer.logit(scorer.features(images1), scorer.features(images2))


def n_right(scorer, trials):
    answers = data.one_shot_answers(lambda images: scorer.features(images[:, None]), scorer.logit, trials)
    return (answers == trials.answers).sum()


# The modified Hausdorff distance --------------------------------------------------------------------------------------


def test_the_distance_of_three_points_to_one_is_as_computed_by_hand():
    # The three are (-1, -1), (-1, 1) and (2, 0) from their mean, so they are sqrt 2, sqrt 2 and 2 from the one point,
    # and it is sqrt 2 from the nearest of them: the larger of the two means counts.
    three, one = image((2, 3), (2, 5), (5, 4)), image((0, 8))
    for a, b in ((three, one), (one, three)):
        np.testing.assert_allclose(logits(ModifiedHausdorff(), a, b), [-(2 * np.sqrt(2) + 2) / 3], rtol=1e-14)


@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1), (7, 1, 5), (9, 6, 4), (9, 3, 11), (6, 35, 35), pytest.param((3, 105, 105), marks=pytest.mark.compiled)],
    ids=str,
)
def test_the_distance_is_that_of_the_formula(draw, shape):
    ink1, ink2 = sparse(draw, *shape), sparse(draw, *shape)[::-1]  # much ink against little, and the other way round
    wanted = [by_formula(a, b) for a, b in zip(ink1, ink2)]
    np.testing.assert_allclose(modified_hausdorff(ink1, np.ascontiguousarray(ink2)), wanted, rtol=1e-12, atol=1e-12)


def test_a_drawing_that_is_moved_is_as_far_from_all_others_as_before(draw):
    drawing, other = np.zeros((2, 5, 1, 20, 20))
    drawing[:, :, :9, :11], other[:, :, 4:, 2:] = sparse(draw, 5, 9, 11)[:, None], sparse(draw, 5, 16, 18)[:, None]
    moved = np.roll(drawing, (11, 9), (-2, -1))
    np.testing.assert_allclose(logits(ModifiedHausdorff(), drawing, moved), 0, atol=1e-13)
    before, after = (logits(ModifiedHausdorff(), x, other) for x in (drawing, moved))
    np.testing.assert_allclose(before, after, rtol=1e-12)
    assert (before < 0).all()


def test_a_blank_image_is_infinitely_far_from_ink_and_equal_to_another_blank_one():
    blank, ink = image(), image((2, 3), (4, 4))
    assert logits(ModifiedHausdorff(), blank, ink) == logits(ModifiedHausdorff(), ink, blank) == [-np.inf]
    assert logits(ModifiedHausdorff(), blank, blank) == [0]


def test_ink_is_what_is_half_black_or_more():
    grey = image((1, 1), (1, 2), (3, 3), (5, 0))
    grey[0, 0, 1, 1], grey[0, 0, 3, 3] = 0.5, 0.49
    assert logits(ModifiedHausdorff(), grey, image((1, 1), (1, 2), (5, 0))) == [0]


@pytest.mark.parametrize("shape", [(2, 1, 9, 4), (2, 3, 6, 6), (2, 6, 6)], ids=str)
def test_images_of_a_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"images is \(N, 1, size, size\)"):
        ModifiedHausdorff().features(np.zeros(shape))


# Pixels ---------------------------------------------------------------------------------------------------------------


def test_the_logit_of_pixels_is_their_cosine(draw):
    x, y = draw.random((2, 6, 1, 5, 7))
    wanted = [(a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()) for a, b in zip(x, y)]
    actual = logits(PixelNearestNeighbour(), x, y)
    assert actual.shape == (6,)
    np.testing.assert_allclose(actual, wanted, rtol=1e-6)


def test_pixels_of_blank_images_are_like_nothing():
    for other in (image(), image((1, 1))):
        assert logits(PixelNearestNeighbour(), image(), other) == [0]


# Both -----------------------------------------------------------------------------------------------------------------


@scorers
def test_a_logit_does_not_depend_on_the_order_and_is_largest_for_equals(scorer, draw):
    x, y = sparse(draw, 6, 13, 13)[:, None], sparse(draw, 6, 13, 13)[:, None]
    np.testing.assert_array_equal(logits(scorer, x, y), logits(scorer, y, x))
    assert (logits(scorer, x, x) > logits(scorer, x, y)).all()
    np.testing.assert_allclose(logits(scorer, x, x), 0 if isinstance(scorer, ModifiedHausdorff) else 1, rtol=1e-6)


@scorers
def test_features_are_a_row_for_each_image_whatever_batch_it_is_in(scorer, draw):
    x = sparse(draw, 7, 10, 10)[:, None]
    whole = scorer.features(x)
    assert whole.ndim == 2 and len(whole) == 7
    np.testing.assert_array_equal(whole, np.concatenate([scorer.features(x[:3]), scorer.features(x[3:])]))


@scorers
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64], ids=str)
def test_tensors_are_as_good_as_arrays(scorer, dtype, draw):
    x, y = sparse(draw, 4, 8, 8)[:, None], sparse(draw, 4, 8, 8)[:, None]
    h1, h2 = (torch.from_numpy(scorer.features(torch.from_numpy(images).to(dtype))) for images in (x, y))
    actual = scorer.logit(h1, h2)
    assert isinstance(actual, np.ndarray)
    np.testing.assert_array_equal(actual, logits(scorer, x, y))


@scorers
def test_images_that_were_repeated_without_a_copy_are_scored_too(scorer, draw):
    x, y = sparse(draw, 1, 8, 8)[:, None], sparse(draw, 5, 8, 8)[:, None]
    h1, h2 = scorer.features(x), scorer.features(y)
    actual = scorer.logit(np.broadcast_to(h1, h2.shape), h2[::-1])  # read-only; from the last to the first
    np.testing.assert_allclose(actual, logits(scorer, x.repeat(5, 0), y[::-1]), rtol=1e-12)


def lake_of(data_dir):
    return data.Trials(*(tensor.numpy() for tensor in koch.lake_trials(data_dir)[:4]))


@pytest.mark.thorough
def test_pixels_answer_87_of_lakes_400_trials(data_dir):
    assert n_right(PixelNearestNeighbour(), lake_of(data_dir)) == 87  # 21.75 %


@pytest.mark.thorough
@pytest.mark.compiled
def test_the_modified_hausdorff_distance_answers_245_of_lakes_400_trials(data_dir):
    assert n_right(ModifiedHausdorff(), lake_of(data_dir)) == 245  # 38.75 % wrong, as Lake's demo says

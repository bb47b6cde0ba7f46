"""§4.3: trials are what they should be, and a scorer gets what it deserves."""

import io
import math
import zipfile

import pytest
import torch
from conftest import Always, Oracle, random_drawings, rng
from PIL import Image

import koch


@pytest.fixture(scope="module")
def drawings():
    return random_drawings()


@pytest.fixture(scope="module")
def trials(drawings):
    return koch.one_shot_trials(drawings, 20, 400, rng())


def where(trials, drawings):
    """Find the character and the drawer of every image of trials."""
    found = {d.numpy().tobytes(): i for i, d in enumerate(drawings.images.flatten(0, 1))}
    flat = torch.tensor([found[image.numpy().tobytes()] for image in trials.images])
    return flat // drawings.images.shape[1], flat % drawings.images.shape[1]


def test_a_trial_has_different_characters_of_one_alphabet_by_one_drawer(trials, drawings):
    characters, drawers = where(trials, drawings)
    assert trials.support.shape == (400, 20) and torch.equal(trials.images, drawings.images.flatten(0, 1))
    for support, name in zip(trials.support, trials.alphabets):
        assert len(characters[support].unique()) == 20 and len(drawers[support].unique()) == 1
        assert {drawings.names[a] for a in drawings.alphabet[characters[support]]} == {name}


def test_the_test_image_is_the_right_character_by_another_drawer(trials, drawings):
    characters, drawers = where(trials, drawings)
    right = trials.support.gather(1, trials.answers[:, None])[:, 0]
    assert torch.equal(characters[trials.test], characters[right])
    assert (drawers[trials.test] != drawers[right]).all()


def test_the_right_answer_is_at_every_position(trials):
    counts = torch.bincount(trials.answers, minlength=20)
    assert counts.min() > 5 and counts.max() < 45  # 20 expected at each


def test_alphabets_with_fewer_than_n_way_characters_are_left_out(trials):
    assert set(trials.alphabets) == {"Alphabet0", "Alphabet1"}  # the third has 5 characters
    assert trials.alphabets.count("Alphabet0") == 200


def test_across_alphabets_a_trial_mixes_them(drawings):
    trials = koch.one_shot_trials(drawings, 20, 50, rng(), within_alphabet=False)
    characters, _ = where(trials, drawings)
    mixed = [len(drawings.alphabet[characters[support]].unique()) for support in trials.support]
    assert min(mixed) >= 2 and all(len(characters[support].unique()) == 20 for support in trials.support)


@pytest.mark.parametrize("n_way, n_drawers", [(23, 4), (1, 4), (20, 1)])
def test_trials_that_cannot_be_drawn_are_an_error(n_way, n_drawers):
    with pytest.raises(koch.UserError, match="trial"):
        koch.one_shot_trials(random_drawings(n_drawers=n_drawers), n_way, 10, rng())


def test_the_same_seed_draws_the_same_trials(drawings, trials):
    torch.manual_seed(99)  # the global generator plays no part
    again, other = koch.one_shot_trials(drawings, 20, 400, rng()), koch.one_shot_trials(drawings, 20, 400, rng(1))
    assert torch.equal(again.test, trials.test) and torch.equal(again.support, trials.support)
    assert not torch.equal(other.answers, trials.answers)


def test_an_oracle_is_always_right(drawings, trials):
    assert koch.one_shot_accuracy(Oracle(drawings), trials) == 1.0


@pytest.mark.parametrize("logit", [0.0, 3.0, -1e30, math.inf, -math.inf, math.nan])
def test_a_constant_scorer_is_never_right(trials, logit):
    assert koch.one_shot_accuracy(Always(logit), trials) == 0.0
    assert (koch.one_shot_answers(Always(logit), trials) == -1).all()


def test_one_nan_makes_a_trial_wrong(drawings, trials):
    class OneNaN(Oracle):
        def logit(self, h1, h2):
            logits = super().logit(h1, h2)
            logits[:, 0] = math.nan  # at the first position of each trial
            return logits

    assert koch.one_shot_accuracy(OneNaN(drawings), trials) == 0.0


def test_a_dead_net_is_never_right(trials):
    net = koch.SiameseNet(35).eval()
    torch.nn.init.zeros_(net.join.weight)
    assert koch.one_shot_accuracy(net, trials) == 0.0


def test_logits_are_compared_and_not_saturated_probabilities(drawings, trials):
    class Saturated(Oracle):
        def logit(self, h1, h2):
            return 40 + super().logit(h1, h2)  # float32 sigmoid of each: exactly 1

    assert koch.one_shot_accuracy(Saturated(drawings), trials) == 1.0


def test_the_order_of_the_support_changes_nothing(drawings, trials):
    torch.manual_seed(0)
    net, order = koch.SiameseNet(35).eval(), torch.stack([torch.randperm(20, generator=rng(t)) for t in range(400)])
    shuffled = trials._replace(
        support=trials.support.gather(1, order), answers=(order == trials.answers[:, None]).int().argmax(1)
    )
    before, after = koch.one_shot_answers(net, trials), koch.one_shot_answers(net, shuffled)
    assert torch.equal(order.gather(1, after[:, None])[:, 0], before)
    assert koch.one_shot_accuracy(net, trials) == koch.one_shot_accuracy(net, shuffled)


@torch.no_grad()
@pytest.mark.parametrize("options, n_looks", [({}, 8), ({"turns": False}, 1), ({"recipe": "paper"}, 1)])
def test_a_finished_nets_logit_is_the_mean_over_all_ways_to_turn_both_images(trials, tmp_path, options, n_looks):
    torch.manual_seed(0)
    net, x = koch.SiameseNet(35).eval(), koch.to_input(trials.images[:5], 35)
    koch.save_checkpoint(tmp_path / "best.pt", net.state_dict(), koch.Config(size=35, **options), step=1)
    net = koch.load_checkpoint(tmp_path / "best.pt")
    looks = [x.rot90(quarter, (2, 3)) for quarter in range(4)]
    looks = [look for turned in looks for look in (turned, turned.flip(3))][:n_looks]
    h = [net.features(look) for look in looks]
    wanted = torch.stack([net.logit(own[:2, None], own[2:]) for own in h]).mean(0)  # (2, 3)
    found = koch.image_features(net, trials.images[:5])
    assert found.shape == (5, n_looks * 512)
    torch.testing.assert_close(found[:, :512], h[0])
    torch.testing.assert_close(net.logit(found[:2, None], found[2:]), wanted)


def test_each_image_is_looked_at_once_undistorted_and_not_in_training_mode(drawings, trials):
    net, seen = koch.SiameseNet(35), []
    with pytest.raises(ValueError, match="eval"):
        koch.one_shot_answers(net.train(), trials)
    net.eval().twin.register_forward_pre_hook(lambda twin, x: seen.append((twin.training, x[0].clone())))
    first = koch.one_shot_answers(net, trials)
    used = torch.cat([trials.test, trials.support.flatten()]).unique()
    assert sum(len(x) for _, x in seen) == len(used) and not any(training for training, _ in seen)
    assert torch.equal(torch.cat([x for _, x in seen]), koch.to_input(trials.images[used], 35))
    assert torch.equal(first, koch.one_shot_answers(net, trials))


def test_pixel_1nn_is_the_cosine(trials):
    test, support = (trials.images[i].flatten(1).double() for i in (trials.test[:30], trials.support[:30].flatten()))
    support = support.view(30, 20, -1)
    cosine = (test[:, None] * support).sum(2) / test.norm(dim=1)[:, None] / support.norm(dim=2)
    few = trials._replace(test=trials.test[:30], support=trials.support[:30], answers=trials.answers[:30])
    answers = koch.one_shot_answers(koch.PixelNearestNeighbour(), few)
    clear = answers >= 0
    assert clear.float().mean() > 0.5 and torch.equal(answers[clear], cosine.argmax(1)[clear])


def test_wilsons_interval_is_the_one_in_the_books():
    def interval(right, n):
        return koch.counted(torch.arange(n) < right)["interval"]

    assert interval(368, 400) == pytest.approx((0.889, 0.943), abs=5e-4)
    assert interval(0, 400)[0] == 0 and interval(400, 400)[1] == 1
    assert interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-3)


@pytest.mark.thorough
def test_lakes_runs_are_the_400_trials_of_the_test_alphabets(data_dir):
    lake = koch.lake_trials(data_dir)
    assert lake.images.shape == (800, 105, 105) and lake.support.shape == (400, 20)
    assert lake.alphabets == tuple(name for name in koch.TEST_ALPHABETS for _ in range(40))
    _, _, test = koch.split(koch.load_omniglot(data_dir))
    flat = test.images.flatten(0, 1)
    known = {image.numpy().tobytes(): i for i, image in enumerate(flat)}
    found = torch.tensor([known[image.numpy().tobytes()] for image in lake.images])  # pixel-identical, all of them
    character, drawer = found // 20, found % 20
    right = lake.support.gather(1, lake.answers[:, None])[:, 0]
    assert torch.equal(character[lake.test], character[right]) and (drawer[lake.test] != drawer[right]).all()
    assert [test.names[a] for a in test.alphabet[character[lake.test]]] == list(lake.alphabets)
    assert (drawer[lake.test[0]] + 1, drawer[lake.support[0, 0]] + 1) == (8, 5)  # run 01's drawers


@pytest.mark.thorough
def test_on_lakes_runs_pixel_1nn_has_2175_percent_an_oracle_400_and_a_constant_0(data_dir):
    lake = koch.lake_trials(data_dir)
    assert koch.one_shot_accuracy(koch.PixelNearestNeighbour(), lake) == pytest.approx(0.2175)
    assert koch.one_shot_accuracy(Oracle(koch.split(koch.load_omniglot(data_dir))[2]), lake) == 1.0
    assert koch.one_shot_accuracy(Always(0.0), lake) == koch.one_shot_accuracy(Always(math.nan), lake) == 0.0


def test_a_damaged_all_runs_zip_is_one_line(tmp_path):
    with zipfile.ZipFile(tmp_path / "all_runs.zip", "w") as archive:
        archive.writestr("run01/class_labels.txt", "run01/test/item01.png run01/training/class01.png\n")
        for name in ("test/item01.png", "training/class01.png"):
            content = io.BytesIO()
            Image.radial_gradient("L").resize((105, 105)).convert("1").save(content, "PNG")
            archive.writestr(f"run01/{name}", content.getvalue())
    with pytest.raises(koch.UserError, match="run02/class_labels.txt") as error:
        koch.lake_trials(tmp_path)
    assert "all_runs.zip does not hold Lake's 20 runs" in str(error.value) and "\n" not in str(error.value)


def test_the_largest_alphabet_says_how_many_ways_where_nobody_does(drawings):
    assert koch.one_shot_trials(drawings, None, 5, rng()).support.shape == (5, 20)
    assert koch.one_shot_trials(random_drawings((7, 4)), None, 5, rng()).support.shape == (5, 7)


def test_one_shot_trials_are_the_same_whether_features_are_given_or_not(drawings, trials):
    net = koch.SiameseNet(35).eval()
    h = koch.image_features(net, trials.images)
    assert torch.equal(koch.one_shot_answers(net, trials), koch.one_shot_answers(net, trials, h))


def test_drawings_that_are_not_there_are_never_shown():
    drawings = random_drawings((6, 5), 8)._replace(counts=torch.tensor([8, 1, 2, 3, 8, 2, 2, 2, 1, 5, 8]))
    trials = koch.one_shot_trials(drawings, 4, 300, rng())
    assert (trials.support % 8 < drawings.counts[trials.support // 8]).all()
    assert (trials.test % 8 < drawings.counts[trials.test // 8]).all()
    right = trials.support.gather(1, trials.answers[:, None])[:, 0]
    assert (trials.test != right).all() and torch.equal(trials.test // 8, right // 8)
    assert set((trials.support // 8).flatten().tolist()) == {0, 2, 3, 4, 5, 6, 7, 9, 10}  # two drawings at least

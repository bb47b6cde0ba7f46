"""reference_numpy trains without torch, answers as koch.py does, and its table survives any student's module."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, random_drawings

import koch
from reference_numpy import compare, data, layers, network, pairs, train
from reference_numpy.__main__ import main
from reference_numpy.data import UserError


def numpy_drawings(**how):
    drawings = random_drawings(**how)
    return data.Drawings(drawings.images.numpy(), drawings.alphabet.numpy(), drawings.names)


def weights_of(net):
    return {name: tensor.numpy().copy() for name, tensor in net.state_dict().items()}


def run_python(code, folder, **environment):
    """Run code in a fresh Python in a folder, with torch and SciPy made impossible to import."""
    block = "import sys; sys.modules['torch'] = sys.modules['scipy'] = None\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KOCH_DATA": "", **environment}
    command = [sys.executable, "-c", block + code]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in an empty folder, on few drawings, with a net of 5 pixels, so that a training takes seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KOCH_DATA", raising=False)
    monkeypatch.setattr(train, "N_VALIDATION", 8)
    monkeypatch.setattr(train, "SIZE", 5)
    kinds = "conv2d maxpool2x2 batchnorm relu conv2d_same batchnorm relu flatten linear batchnorm"
    monkeypatch.setitem(network.TWINS, 5, kinds.split())
    monkeypatch.setitem(network.CONVOLUTIONS, 5, ((3, 1, 2, 2), (4, 3, 3, 3)))
    monkeypatch.setitem(network.LINEAR, 5, (6, 16))
    sets = [numpy_drawings(n_characters=(21, 22), seed=seed) for seed in range(3)]
    monkeypatch.setattr(data, "load_splits", lambda data_set, data_dir: (*sets, "invented"))
    return tmp_path


# Drawings, minibatches and trials -------------------------------------------------------------------------------------


def test_images_shrink_as_kochs_do():
    images = random_drawings().images[:, 0]
    for size in (35, 51):
        assert np.allclose(data.to_input(images.numpy(), size), koch.to_input(images, size).numpy(), atol=1e-6)
    assert np.array_equal(data.to_input(images.numpy(), 105), koch.to_input(images, 105).numpy())


def test_distortions_map_as_kochs_do():
    rng = np.random.default_rng(5)
    images = (rng.random((40, 1, 35, 35)) < 0.2).astype(np.float32)
    draw = rng.uniform(-1, 1, (40, 7))
    draw[:7] = np.eye(7)  # each component alone, then all together
    ranges = np.array([np.radians(10), 0.3, 0.3, 0.2, 0.2, 2 * 2 / 105, 2 * 2 / 105])
    wanted = koch.distort(torch.from_numpy(images), torch.from_numpy(draw * ranges).float())
    assert np.abs(data.affine(images, *(draw * ranges).T) - wanted.numpy()).max() < 1e-4


def test_distortions_have_the_papers_ranges_and_leave_paper_outside(monkeypatch):
    seen = []
    monkeypatch.setattr(data, "affine", lambda images, *numbers: seen.append(np.array(numbers)))
    data.distort(np.zeros((4000, 1, 35, 35), np.float32), np.random.default_rng(0))
    ranges = np.array([np.radians(10), 0.3, 0.3, 0.2, 0.2, 2 * 2 / 105, 2 * 2 / 105])
    largest, present = np.abs(seen[0]).max(1), (seen[0] != 0).mean(1)
    assert (largest <= ranges).all() and (largest > 0.97 * ranges).all()  # in the ranges, and over all of them
    assert (np.abs(present - 0.5) < 0.04).all() and (np.abs(seen[0].mean(1)) < 0.04 * ranges).all()
    monkeypatch.undo()
    far = data.affine(np.ones((1, 1, 9, 9), np.float32), *np.array([[0], [0], [0], [0], [0], [1.0], [0]]))
    assert np.array_equal(far[0, 0, :, :4], np.ones((9, 4))) and not far[0, 0, :, 5:].any()


def test_a_minibatch_has_different_drawings_of_different_characters_of_one_alphabet():
    drawings = numpy_drawings(n_characters=(12, 11, 3))
    known = {image.tobytes(): (c, d) for c, row in enumerate(drawings.images) for d, image in enumerate(row)}
    rng, kinds = np.random.default_rng(1), set()
    for _ in range(12):
        images, characters = data.draw_batch(drawings, 4, 5, 3, rng)
        assert images.shape == (4, 15, 105, 105) and images.dtype == np.uint8 and characters.shape == (4, 15)
        for alphabet, classes in zip(images, characters):
            turns = [turn for turn in np.ndindex(2, 2, 2) if turned(alphabet[0], *turn).tobytes() in known]
            assert len(turns) == 1  # one symmetry of the square, the same for all of the alphabet
            kinds.add(turns[0])
            found = [known[turned(image, *turns[0]).tobytes()] for image in alphabet]
            assert [c for c, _ in found] == classes.tolist() and len(set(found)) == 15
            assert len(set(classes)) == 5 and len(set(drawings.alphabet[classes])) == 1
            assert drawings.alphabet[classes[0]] < 2
    assert len(kinds) == 8
    with pytest.raises(UserError, match="no alphabet has 13 characters"):
        data.draw_batch(drawings, 4, 13, 3, rng)


def turned(image, transposed, mirrored, on_head):
    """Undo data.draw_batch's turn."""
    image = image[::-1] if on_head else image
    image = image[:, ::-1] if mirrored else image
    return np.ascontiguousarray(image.T if transposed else image)


def test_a_trial_has_one_right_answer_by_another_drawer():
    drawings = numpy_drawings(n_characters=(20, 25, 5))
    trials = data.one_shot_trials(drawings, 20, 300, np.random.default_rng(0))
    known = {image.tobytes(): (c, d) for c, row in enumerate(drawings.images) for d, image in enumerate(row)}
    for trial in range(300):
        character, drawer = known[trials.images[trials.test[trial]].tobytes()]
        support = [known[trials.images[i].tobytes()] for i in trials.support[trial]]
        assert len({c for c, _ in support}) == 20 and len({d for _, d in support}) == 1 and support[0][1] != drawer
        assert support[trials.answers[trial]][0] == character
        assert {drawings.alphabet[c] for c, _ in support} == {trial % 2}  # the third alphabet is too small
    assert set(trials.answers.tolist()) == set(range(20))
    with pytest.raises(UserError, match="no 26-way trial"):
        data.one_shot_trials(drawings, 26, 1, np.random.default_rng(0))


def test_training_on_pairs_is_in_training_mode_at_the_papers_rates_epoch_by_epoch(monkeypatch):
    modes, rates, momenta = [], [], []

    def forward(parameters, x1, x2, training=False):
        modes.append(training)
        return np.zeros(len(x1)), ({}, {}, None)

    def sgd(parameters, gradients, velocity, learning_rate, momentum, l2):
        rates.append(learning_rate), momenta.append(momentum)
        return parameters, velocity

    monkeypatch.setattr(network, "siamese_forward", forward)
    monkeypatch.setattr(network, "siamese_backward", lambda dlogits, cache: {})
    monkeypatch.setattr(network, "running_statistics", lambda parameters, twin: parameters)
    monkeypatch.setattr(pairs.learning, "sgd", sgd)
    monkeypatch.setattr(network, "size_of", lambda parameters: 35)
    _, losses = pairs.train_on_pairs({}, numpy_drawings(), np.random.default_rng(0), 8, 5, 4, 0.1, 0.9)
    assert modes == [True] * 10 and losses == pytest.approx([np.log(2)] * 5)
    assert rates == pytest.approx([0.1 * 0.99**epoch for epoch in range(5) for _ in range(2)])
    assert momenta == pytest.approx([m for m in (0.5, 0.6, 0.7, 0.8, 0.9) for _ in range(2)])


@pytest.mark.parametrize("value, right", [(0.0, 0), (np.inf, 0), (np.nan, 0), (None, 60)])
def test_a_scorer_that_knows_nothing_gets_no_trial_and_an_oracle_gets_all(value, right):
    drawings = numpy_drawings()
    trials = data.one_shot_trials(drawings, 20, 60, np.random.default_rng(0))
    known = {image.tobytes(): float(c) for c, row in enumerate(drawings.images) for image in row}

    def features(images):
        return np.array([[known[image.tobytes()]] for image in images])

    def logit(h1, h2):
        return -np.abs(h1 - h2)[:, 0] if value is None else np.full(len(h1), value)

    assert (data.one_shot_answers(features, logit, trials) == trials.answers).sum() == right


def test_one_nan_logit_makes_the_answer_wrong():
    trials = data.one_shot_trials(numpy_drawings(), 20, 10, np.random.default_rng(0))
    trial = iter(range(10**6))

    def logit(h1, h2):
        return np.where(np.arange(20) == next(trial) % 20, np.nan, np.arange(20.0))

    answers = data.one_shot_answers(lambda images: np.zeros((len(images), 1)), logit, trials)
    assert (answers == -1).all()


def test_training_ends_with_a_checkpoint_and_repeats_itself(here, capsys):
    results = [train.train("auto", "", steps=2, seed=3, name=name) for name in ("a", "b")]
    assert results[0] == results[1]
    assert {path.name for path in (here / "runs/a").iterdir()} == {"best.npz", "curves.png", "log.csv"}
    (first, about), (second, _) = (train.load_checkpoint(here / "runs" / name / "best.npz") for name in "ab")
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert about["config"]["data"] == "invented" and about["config"]["seed"] == 3
    assert 0 <= about["validation"] <= 1 and about["step"] <= 2
    assert "400 one-shot trials within invented alphabets" in capsys.readouterr().out
    other = train.train("auto", "", steps=1, seed=4, name="c")
    assert not np.array_equal(train.load_checkpoint("runs/c/best.npz")[0]["twin.0.weight"], first["twin.0.weight"])
    assert 0 <= other <= 1


def test_the_best_checkpoint_is_kept_not_the_last(here, monkeypatch):
    scores = iter([0.25, 0.75, 0.5, 0.125])
    trials = data.one_shot_trials(numpy_drawings(n_characters=(21, 22)), 20, 8, np.random.default_rng(0))

    def answers(parameters, taken):
        right = np.array(taken.answers)
        right[int(next(scores, 1.0) * len(right)) :] = -1
        return right

    monkeypatch.setattr(train, "answers", answers)
    assert len(trials.answers) == 8
    train.train("auto", "", steps=4, name="kept")
    assert train.load_checkpoint("runs/kept/best.npz")[1]["step"] == 2


@pytest.mark.compiled
def test_same_weights_same_answers_at_size_35(invented, request):
    torch.manual_seed(0)
    net, rng = koch.SiameseNet(35), np.random.default_rng(0)
    drawings = data.Drawings(invented.images.numpy(), invented.alphabet.numpy(), invented.names)
    parameters, state = weights_of(net), {"muon": {}, "adamw": {}}
    for _ in range(10):  # so that the running statistics are no longer those of the start
        images, characters = data.draw_batch(drawings, 2, 5, 2, rng)
        x = data.to_input(images.reshape(-1, 105, 105), 35)
        parameters, state, _ = train.training_step(parameters, state, x, characters, 0.5)
    if os.environ.get("KOCH_DATA"):
        trials = koch.lake_trials(request.getfixturevalue("data_dir"))
    else:
        trials = koch.one_shot_trials(invented, 20, 200, torch.Generator().manual_seed(0))
    net.load_state_dict({name: torch.from_numpy(np.asarray(array)) for name, array in parameters.items()})
    ours = data.Trials(*(tensor.numpy() for tensor in trials[:4]))
    with torch.no_grad():
        h = net.eval().features(koch.to_input(trials.images[:50], 35)).numpy()
    mine = network.features_forward(parameters, data.to_input(ours.images[:50], 35))[0]
    assert mine.dtype == np.float32 and np.abs(mine - h).max() < 1e-4 and np.abs(h).max() > 0.1
    assert np.array_equal(train.answers(parameters, ours), koch.one_shot_answers(net, trials).numpy())


# Without torch --------------------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_the_command_trains_where_torch_and_scipy_cannot_be_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # away from invented alphabets that are kept in data/
    code = """
import reference_numpy.train as train, reference_numpy.compare
from reference_numpy.__main__ import main

train.N_VALIDATION, train.VALIDATIONS = 8, 1
print("status", main(["train", "--steps", "2", "--data", "invented", "--name", "small"]))
"""
    koch.kept(tmp_path / "data/invented.npz", koch.Drawings, lambda: random_drawings((20, 21) * 25, 20))
    done = run_python(code, tmp_path)
    assert "status 0" in done.stdout, done.stderr
    assert "this net, trained on invented" in done.stdout
    assert (tmp_path / "runs/small/best.npz").is_file()


def test_what_koch_keeps_is_read_and_split_alike(here):
    drawings = random_drawings((3,) * 50, 20)
    koch.kept(here / "data" / "invented.npz", koch.Drawings, lambda: drawings)
    kept = data.load_arrays("invented.npz", ("alphabet", "names"))
    assert np.array_equal(kept["images"], drawings.images.numpy())
    for theirs, wanted in zip(LOAD_SPLITS("auto")[:3], koch.split(drawings), strict=True):
        assert np.array_equal(theirs.images, wanted.images.numpy()) and theirs.names == wanted.names
        assert np.array_equal(theirs.alphabet, wanted.alphabet.numpy())


LOAD_SPLITS = data.load_splits


def test_lakes_trials_are_kochs(here):
    trials = koch.one_shot_trials(random_drawings((20, 21)), 20, 9, torch.Generator().manual_seed(0))
    koch.kept(here / "data" / "lake.npz", koch.Trials, lambda: trials)
    ours = data.load_lake()
    assert all(np.array_equal(mine, theirs.numpy()) for mine, theirs in zip(ours, trials))


def test_trials_that_are_damaged_are_found_before_the_training(here):
    koch.kept(here / "data" / "invented.npz", koch.Drawings, lambda: random_drawings((20,) * 50, 20))
    np.savez(here / "data" / "lake.npz", bits=np.zeros((800, 105, 14), np.uint8))
    with pytest.raises(UserError, match="lake.npz is damaged"):
        train.train("invented", steps=1)
    assert not (here / "runs").exists()


def test_missing_and_damaged_arrays_are_one_line(here):
    with pytest.raises(UserError, match="run python koch.py train first"):
        data.load_lake()
    (here / "data").mkdir()
    (here / "data/lake.npz").write_bytes(b"PK nothing")
    with pytest.raises(UserError, match="lake.npz is damaged"):
        data.load_lake()
    koch.kept(here / "data" / "some.npz", koch.Drawings, lambda: random_drawings((3, 2)))
    content = bytearray((here / "data/some.npz").read_bytes())
    places = [found.start() for found in re.finditer(b"PK\1\2|PK\5\6", content)]  # of the directory's entries, its end
    length = places[-1] - places[2]  # of the second entry's comment, in which all later entries are lost now
    content[places[1] + 32 : places[1] + 34] = length.to_bytes(2, "little")
    (here / "data/some.npz").write_bytes(content)
    with pytest.raises(UserError, match="some.npz is damaged"):
        data.load_arrays("some.npz", ("alphabet", "names"))


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["train", "--steps", "0"], "--steps"),
        (["train", "--seed", "-1"], "--seed"),
        (["train", "--stepz", "3"], "--stepz"),
        (["train", "--step", "3"], "--step"),
        (["train", "--data-dir", "nowhere", "--data", "omniglot"], "omniglot.npz is not there; run python koch.py"),
        (["train", "--name", "a/b"], "--name"),
        (["train", "--name", ".."], "--name"),
        (["compare", "--limit", "nan"], "--limit"),
        (["compare", "no_such_module"], "no_such_module"),
        ([], "COMMAND"),
    ],
)
def test_bad_input_gets_one_line_and_status_2(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        status = main(arguments)
    except SystemExit as end:
        status = end.code
    lines = capsys.readouterr().err.splitlines()
    assert status == 2 and len(lines) == 1 and said in lines[0]
    assert not list(tmp_path.iterdir())


def test_the_comparison_without_torch_says_so_in_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["compare"]) == 2
    assert "torch, which is not installed" in capsys.readouterr().err


def test_a_damaged_checkpoint_and_one_of_another_program_are_refused(tmp_path):
    path = tmp_path / "best.npz"
    path.write_bytes(b"PK nothing")
    with pytest.raises(UserError, match="is not a checkpoint"):
        train.load_checkpoint(path)
    np.savez(path, weight=np.zeros(3))
    with pytest.raises(UserError, match="is not a checkpoint"):
        train.load_checkpoint(path)


# The table ------------------------------------------------------------------------------------------------------------

STUDENT = '''
import os, sys, time
import numpy as np
from reference_numpy.layers import *
print("x" * 1000000)
def relu_forward(x): return np.maximum(x, 0).astype(np.float64), x > 0
def sigmoid_forward(x): raise ValueError("not yet")
def linear_forward(x, w, b): return (x @ w.T + b).T, (x, w)
def batchnorm_forward(*arguments): time.sleep(60)
def l1_join_forward(*arguments): os._exit(3)
def bce_with_logits_forward(logits, same): return np.float32("nan"), logits
def softmax_cross_entropy_forward(logits, same): sys.exit(1)
del maxpool2x2_backward
'''


@pytest.mark.thorough
def test_the_table_goes_on_whatever_a_students_module_does(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare, "BUDGET", 0.01)
    monkeypatch.setattr(compare, "PAUSE", 0.0)
    (tmp_path / "student.py").write_text(STUDENT)
    rows = compare.compare("student.py", limit=4.0)
    said = capsys.readouterr().out
    problems = {row["operation"]: row.get("problem", "") for row in rows if row["implementation"] == "student.py"}
    expected = {
        "relu": "out is float64, not float32", "sigmoid": "ValueError: not yet", "linear": "out has shape",
        "batchnorm": "ran past the limit of 4 s", "l1_join": "exit status 3", "bce_with_logits": "not finite",
        "softmax_cross_entropy": "ended its process", "maxpool2x2": "no attribute 'maxpool2x2_backward'",
    }  # fmt: skip
    for operation, problem in expected.items():
        assert problem in problems[operation], (operation, problems[operation])
        assert problems[operation] in said
    assert not problems["conv2d"]
    assert {row["operation"] for row in rows} == {case.operation for case in compare.CASES if case.small}
    for row in rows:  # everything that is no student's is as exact as float32 can be
        if row["implementation"] not in ("student.py", "torch") and "problem" not in row:
            relative = [value for key, value in row.items() if key.startswith("relative_error")]
            assert relative and max(relative) < 1e-4, row
    assert (tmp_path / "runs/compare/roofline.png").stat().st_size > 5000
    assert len((tmp_path / "runs/compare/compare.csv").read_text().splitlines()) == len(rows) + 1


def test_the_teaching_way_agrees_with_the_ladder():
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((3, 2, 7, 9)), rng.standard_normal((5, 2, 3, 2)), rng.standard_normal(5)
    (out, cache), (wanted, theirs) = compare.im2col_forward(x, w, b), layers.conv2d_forward(x, w, b)
    dout = rng.standard_normal(out.shape)
    for a, b in zip((out, *compare.im2col_backward(dout, cache)), (wanted, *layers.conv2d_backward(dout, theirs))):
        assert np.allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.compiled
def test_an_error_in_a_result_shows_in_its_own_column(monkeypatch):
    monkeypatch.setattr(compare, "BUDGET", 0.0)
    monkeypatch.setattr(compare, "PAUSE", 0.0)
    right = layers.linear_backward

    def wrong(dout, cache):
        dx, dw, db = right(dout, cache)
        return dx, 1.5 * dw, 1.5 * db

    monkeypatch.setattr(layers, "linear_backward", wrong)
    case = next(case for case in compare.CASES if case.operation == "linear" and case.small)
    row = compare.compare_case(case, np.random.default_rng(0), 1e11)[-1]
    assert row["relative_error_out"] < 1e-5 and row["relative_error_dx"] < 1e-5
    assert row["relative_error_dw"] == pytest.approx(0.5, abs=1e-3) == row["relative_error_db"]

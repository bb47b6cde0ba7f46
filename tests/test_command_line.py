"""The commands as a user types them: a whole tiny training, going on after a stop, and bad input."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from PIL import Image

import koch

TINY = ["--data", "invented", "--size", "35", "--device", "cpu", "--steps", "6", "--validations", "2", "--warmup", "2"]
TINY += ["--alphabets", "2", "--characters", "4", "--precision", "float32"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, invented):
    """A folder with a finished tiny training, runs/tiny, on 50 copies of a few small invented alphabets."""
    folder = tmp_path_factory.mktemp("workplace")
    few = [torch.where(invented.alphabet == a)[0][:5] for a in range(len(invented.names))]  # five characters of each
    images = torch.cat([invented.images[few[i % len(few)]].roll(i // len(few), 1) for i in range(50)])
    names, alphabet = tuple(f"Alphabet{i}" for i in range(50)), torch.arange(50).repeat_interleave(5)
    world = koch.Drawings(images, alphabet, torch.full((250,), 20), names, (), by_drawer=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        settings(patch)
        koch.kept(Path("data/invented.npz"), koch.Drawings, lambda: world)
        assert koch.main(["train", *TINY, "--name", "tiny"]) == 0
    return folder


def settings(patch):
    """Few trials and pairs, so that a training takes seconds; no network and no data but the folder's."""

    def refuse(*_, **__):
        raise urllib.error.URLError("no network")

    patch.delenv("KOCH_DATA", raising=False)
    patch.setattr(koch.urllib.request, "urlopen", refuse)
    patch.setattr(koch, "WEIGHTS", Path("no weights here"))
    for name, n in (("N_FRESH", 40), ("N_PAIRS", 100), ("N_VALIDATION", 40)):
        patch.setattr(koch, name, n)


@pytest.fixture
def inside(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    settings(monkeypatch)
    return workplace


def state_of(name, file="last.pt"):
    return torch.load(f"runs/{name}/{file}", weights_only=True)


def same_weights(a, b, file="last.pt"):
    a, b = state_of(a, file)["net"], state_of(b, file)["net"]
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def results_of(name):
    results = json.loads((Path("runs") / name / "results.json").read_text())
    return {key: value for key, value in results.items() if key not in ("seconds", "config")}


# Training -------------------------------------------------------------------------------------------------------------


def test_a_training_leaves_two_checkpoints_results_and_pictures(inside):
    run = inside / "runs" / "tiny"
    assert {path.name for path in run.iterdir()} == {"best.pt", "last.pt", "results.json", "curves.png", "trials.png"}
    results = json.loads((run / "results.json").read_text())
    assert results["config"]["data"] == "invented" and results["torch"] == torch.__version__
    assert results["within"]["n"] == results["across"]["n"] == 40 and results["verification"]["n"] == 100
    assert [row["step"] for row in results["log"]] == [1, 2, 3, 4, 5, 6]
    assert [row["validation"] is not None for row in results["log"]] == [False, False, True, False, False, True]
    best = state_of("tiny", "best.pt")
    assert best["validation"] == results["validation"] == max(row["validation"] or 0 for row in results["log"])
    for name in ("curves.png", "trials.png"):
        picture = Image.open(run / name)
        assert picture.width > 400 and len(picture.convert("RGB").getcolors(100_000)) > 5


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(inside):
    assert koch.main(["train", *TINY, "--name", "again"]) == 0
    assert koch.main(["train", *TINY, "--name", "other", "--seed", "1"]) == 0
    assert same_weights("tiny", "again") and results_of("tiny") == results_of("again")
    assert not same_weights("tiny", "other")


def test_figures_on_invented_trials_never_stand_beside_the_papers(inside, capsys):
    assert koch.main(["oneshot", "runs/tiny/best.pt"]) == 0
    out = capsys.readouterr().out
    assert "fresh trials, within an alphabet" in out and "The paper" not in out and "Lake" not in out


def test_oneshot_repeats_the_figures_of_the_training(inside, capsys):
    assert koch.main(["train", "--resume", "runs/tiny"]) == 0
    first = capsys.readouterr().out
    assert koch.main(["oneshot", "runs/tiny/best.pt", "--precision", "float32"]) == 0
    again = capsys.readouterr().out
    table = first[first.index("percent right") : first.index("in runs/tiny")]
    assert table.strip() in again


def stop_at(monkeypatch, step, number):
    """Raise a signal in the optimiser's step of a training step 1, 2, ..."""
    set_rates, count = koch.set_rates, []

    def counted(*arguments):
        count.append(1)
        if len(count) == step:
            signal.raise_signal(number)
        set_rates(*arguments)

    monkeypatch.setattr(koch, "set_rates", counted)


@pytest.mark.parametrize(
    "recipe, at, number",  # stopped before a validation and after one
    [
        ("fast", 6, signal.SIGTERM),
        ("paper", 2, signal.SIGINT),
        pytest.param("fast", 2, signal.SIGINT, marks=pytest.mark.thorough),
        pytest.param("paper", 6, signal.SIGTERM, marks=pytest.mark.thorough),
    ],
)
def test_a_stopped_training_goes_on_to_the_very_same_end(inside, recipe, at, number, monkeypatch, capsys):
    options = [*TINY, "--recipe", recipe]
    if recipe == "paper":
        options += ["--pairs", "16", "--batch", "4", "--distort", "--epochs", "1", "--steps", "8"]
    name, whole = f"stopped-{recipe}{at}", f"whole-{recipe}"
    if not Path("runs", whole).exists():
        assert koch.main(["train", *options, "--name", whole]) == 0
    with monkeypatch.context() as patched:
        stop_at(patched, at, number)
        assert koch.main(["train", *options, "--name", name]) == 130
    error = capsys.readouterr().err.strip()
    assert f"go on with: python koch.py train --resume runs/{name}" in error and len(error.splitlines()) == 1
    assert koch.main(["train", "--resume", f"runs/{name}"]) == 0
    assert same_weights(whole, name) and same_weights(whole, name, "best.pt")
    assert results_of(whole) == results_of(name)
    assert state_of(whole, "best.pt")["calibration"] == state_of(name, "best.pt")["calibration"]


def test_a_finished_training_can_be_resumed_and_says_the_same_again(inside):
    before = results_of("tiny"), state_of("tiny", "best.pt")["calibration"]
    assert koch.main(["train", "--resume", "runs/tiny"]) == 0
    assert before == (results_of("tiny"), state_of("tiny", "best.pt")["calibration"])


def test_a_resumed_training_remembers_the_best_validation_so_far(inside, monkeypatch):
    script = iter([0.9, 0.1, 0.2, 0.3])
    monkeypatch.setattr(koch, "one_shot_accuracy", lambda *a: next(script, 0.5))
    monkeypatch.setattr(koch, "finish", lambda run, config, folder, *_: {"run": run})
    options = [*TINY, "--steps", "8", "--validations", "4", "--name", "remembers"]
    with monkeypatch.context() as patched:
        stop_at(patched, 4, signal.SIGINT)
        assert koch.main(["train", *options]) == 130
    assert koch.main(["train", "--resume", "runs/remembers"]) == 0
    assert state_of("remembers", "best.pt")["step"] == 2 and state_of("remembers", "best.pt")["validation"] == 0.9
    assert state_of("remembers")["best"] == 0.9


def test_the_best_checkpoint_takes_the_test_and_not_the_last(inside, monkeypatch):
    tested, verify = [], koch.verify
    script = iter([0.9, 0.1])
    with monkeypatch.context() as patched:
        accuracy = koch.one_shot_accuracy
        patched.setattr(koch, "one_shot_accuracy", lambda net, *a: next(script, None) or accuracy(net, *a))
        patched.setattr(koch, "verify", lambda net, *how: tested.append(net) or verify(net, *how))
        assert koch.main(["train", *TINY, "--name", "best"]) == 0
    assert state_of("best", "best.pt")["step"] == 3
    weights = tested[0].state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in state_of("best", "best.pt")["net"].items())
    assert not torch.equal(weights["join.weight"], state_of("best")["net"]["join.weight"])


def test_the_threshold_is_chosen_on_validation_drawings_and_the_test_is_of_test_drawings(inside, monkeypatch):
    seen, calibrate, evaluate = {}, koch.calibrate, koch.evaluate
    monkeypatch.setattr(koch, "calibrate", lambda net, part: seen.update(calibrate=part) or calibrate(net, part))
    monkeypatch.setattr(koch, "evaluate", lambda net, part, c: seen.update(evaluate=part) or evaluate(net, part, c))
    assert koch.main(["train", *TINY, "--name", "flow"]) == 0
    world, _ = koch.load_data(koch.Config(data="invented"))
    _, validation, test = koch.split(world)
    assert seen["calibrate"].names == validation.names and torch.equal(seen["calibrate"].images, validation.images)
    assert seen["evaluate"].names == test.names and torch.equal(seen["evaluate"].images, test.images)


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_real_training_with_one_line_and_a_checkpoint(workplace, number):
    log, name = workplace / "log.txt", f"real{number}"
    environment = {key: value for key, value in os.environ.items() if key != "KOCH_DATA"}
    command = [sys.executable, str(ROOT / "koch.py"), "train", *TINY, "--steps", "100000", "--name", name]
    with open(log, "w") as file:
        process = subprocess.Popen(command, cwd=workplace, env=environment, stdout=file, stderr=file)
        deadline = time.monotonic() + 120
        while not (workplace / "runs" / name / "last.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(60) == 130, log.read_text()
    assert f"--resume runs/{name}" in log.read_text() and "Traceback" not in log.read_text()


# Which net ------------------------------------------------------------------------------------------------------------


def test_the_best_on_validation_of_the_newest_runs_data_is_taken_and_said(inside, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    state, config = torch.load(inside / "runs/tiny/best.pt", weights_only=True), koch.settle(koch.Config(device="cpu"))
    for age, (name, data, validation) in enumerate(
        [("worse", "omniglot", 0.5), ("better", "omniglot", 0.7), ("foreign", "own", 0.99)]
    ):
        Path("runs", name).mkdir(parents=True)
        torch.save(state | {"config": state["config"] | {"data": data}, "validation": validation}, f"runs/{name}/best.pt")
        os.utime(f"runs/{name}/best.pt", (time.time() - 7200 - age, time.time() - 7200 - age))
    net = koch.choose_net(None, config)
    out = capsys.readouterr().out
    assert net.validation == 0.7 and "runs/better/best.pt, best of 2 trained on omniglot: 70.0 %" in out
    assert "2.0 hours old" in out
    monkeypatch.setattr(koch, "WEIGHTS", tmp_path / "reduced.pt")
    torch.save(state | {"config": state["config"] | {"data": "omniglot"}, "validation": 0.8}, koch.WEIGHTS)
    assert koch.choose_net(None, config).validation == 0.8
    assert koch.choose_net("runs/worse/best.pt", config).validation == 0.5
    os.utime("runs/foreign/best.pt")
    assert koch.choose_net(None, config).validation == 0.99  # the newest run is of other data


def test_checkpoints_of_earlier_versions_still_load(inside, tmp_path):
    state = torch.load("runs/tiny/best.pt", weights_only=True)
    state = {key: value for key, value in state.items() if key not in ("calibration", "validation")}
    state |= {"threshold": 0.25, "config": state["config"] | {"loss": "softmax", "lr_step": 0, "learning_rates": "0.1"}}
    torch.save(state, tmp_path / "old.pt")
    net = koch.load_checkpoint(tmp_path / "old.pt")
    assert net.calibration == koch.Calibration(0.25, 1.0, 0.0) and net.validation is None


def test_a_checkpoint_without_calibration_gets_one_on_its_own_validation_pairs(inside, tmp_path):
    state = torch.load("runs/tiny/best.pt", weights_only=True)
    calibration = state.pop("calibration")
    torch.save(state, tmp_path / "stopped.pt")
    net = koch.choose_net(tmp_path / "stopped.pt", koch.settle(koch.Config(device="cpu", precision="float32")))
    assert tuple(net.calibration) == pytest.approx(calibration)


# Classify -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(tmp_path_factory, invented):
    """A folder of twelve classes of three pictures each, ink dark on light paper, as a user would have it."""
    folder = tmp_path_factory.mktemp("own")
    for c in range(12):
        (folder / f"sign{c:02}").mkdir()
        for d in range(3):
            pixels = (1 - invented.images[9 * c, d].numpy()) * 255
            Image.fromarray(pixels).resize((70, 70)).save(folder / f"sign{c:02}" / f"{d}.png")
    return folder


def classified(capsys, *arguments):
    assert koch.main(["classify", "--checkpoint", "runs/tiny/best.pt", "--json", *map(str, arguments)]) == 0
    return json.loads(capsys.readouterr().out)


def test_classify_ranks_all_classes_by_the_mean_logit_whatever_the_order_of_images(inside, own, capsys):
    images = [own / "sign03/2.png", own / "sign07/1.png"]
    both, back = (classified(capsys, "--support", own, *order) for order in (images, images[::-1]))
    assert [answer["image"] for answer in both] == list(map(str, images))
    for one, other in zip(both, back[::-1]):
        assert [found["class"] for found in one["answers"]] == [found["class"] for found in other["answers"]]
    net = koch.load_checkpoint("runs/tiny/best.pt")
    support = koch.as_drawings(koch.read_classes(own, support=True))
    h = koch.image_features(net, support.images.flatten(0, 1))
    with torch.no_grad():
        for answer, place in zip(both, (3 * 3 + 2, 3 * 7 + 1)):
            logits = net.logit(h[place], h).view(12, 3).mean(1)
            p = torch.sigmoid(net.calibration.scale * logits + net.calibration.offset)
            assert [found["class"] for found in answer["answers"]] == [
                support.characters[i] for i in logits.argsort(descending=True)
            ]
            assert answer["answers"][0]["p"] == pytest.approx(p.max().item(), abs=1e-4)
            assert answer["same"] == bool(logits.max() > net.calibration.threshold)


def test_classify_says_what_it_found_and_where_the_picture_is(inside, own, capsys):
    assert koch.main(["classify", "--support", str(own), str(own / "sign03/2.png")]) == 0
    out = capsys.readouterr().out
    assert "best of" in out and "sign03/2.png: sign" in out and "(p = 0." in out and "picture: runs/classify.png" in out
    assert Image.open("runs/classify.png").width > 600


def test_two_pictures_are_the_same_or_not_by_the_threshold(inside, own, capsys, monkeypatch):
    pair = ["--support", str(own / "sign00/0.png"), str(own / "sign01/0.png")]
    for threshold, said in ((-1e9, ", the same"), (1e9, ", not the same")):
        load = koch.load_checkpoint
        with monkeypatch.context() as patched:

            def loaded(*how):
                net = load(*how)
                net.calibration = net.calibration._replace(threshold=threshold)
                return net

            patched.setattr(koch, "load_checkpoint", loaded)
            assert koch.main(["classify", *pair]) == 0
        assert said in capsys.readouterr().out


def test_a_folder_of_pictures_trains_a_net_and_is_a_test_set_for_another(inside, own, capsys):
    options = [*TINY, "--alphabets", "1", "--characters", "3", "--drawings", "2", "--name", "own", "--data", str(own)]
    assert koch.main(["train", *options]) == 0
    assert koch.main(["oneshot", "runs/tiny/best.pt", "--data", str(own)]) == 0
    assert "after training on invented" in capsys.readouterr().out


# Bad input ------------------------------------------------------------------------------------------------------------

BAD = {
    "no command": ([], "required"),
    "unknown option": (["train", "--stepz", "3"], "--stepz"),
    "abbreviated option": (["train", "--step", "3"], "--step"),
    "not a number": (["train", "--steps", "many"], "many"),
    "no steps": (["train", "--steps", "-1"], "--steps is at least 0"),
    "not a learning rate": (["train", "--learning-rate", "nan"], "--learning-rate"),
    "unknown data": (["train", "--data", "mnist2"], "mnist2 is no data set, and no folder or zip"),
    "too few rates": (["train", "--recipe", "paper", "--size", "35", "--learning-rates", "1,2"], "one number for all or 8"),
    "an image that is not there": (["classify", "--support", "a.png", "b.png"], "a.png cannot be read"),
    "no support": (["classify", "--support", "nowhere", "a.png"], "nowhere"),
    "too many characters": (["train", *TINY, "--characters", "41"], "--characters"),
    "a path as a name": (["train", *TINY, "--name", "../x"], "--name"),
    "a taken name": (["train", *TINY, "--name", "tiny"], "--resume runs/tiny"),
    "no checkpoint": (["oneshot", "runs/none/best.pt"], "runs/none/best.pt"),
    "no checkpoint file": (["oneshot", "data/invented.npz"], "data/invented.npz is not a checkpoint"),
    "half a checkpoint": (["oneshot", "half.pt"], "half.pt is not a checkpoint"),
    "another size": (["oneshot", "other_size.pt"], "other_size.pt"),
    "nothing to resume": (["train", "--resume", "runs/none"], "runs/none/last.pt"),
    "resume a best.pt": (["train", "--resume", "best_only"], "best_only/last.pt"),
    "resume with options": (["train", "--resume", "runs/tiny", "--steps", "9"], "--resume"),
    "empty data folder": (["train", "--data-dir", "empty", "--steps", "1"], "empty/all_runs.zip"),
}


@pytest.mark.parametrize("arguments, said", BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_and_exit_status_2(inside, arguments, said, capsys):
    whole = (inside / "runs" / "tiny" / "best.pt").read_bytes()
    (inside / "half.pt").write_bytes(whole[: len(whole) // 2])
    state = torch.load("runs/tiny/best.pt", weights_only=True)
    state["config"]["size"] = 105
    torch.save(state, "other_size.pt")
    for name in ("empty", "best_only"):
        (inside / name).mkdir(exist_ok=True)
    (inside / "best_only" / "last.pt").write_bytes(whole)
    before = sorted(str(path) for path in inside.rglob("*"))
    try:
        status = koch.main(arguments)
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    assert status == 2
    assert said in error and len(error.strip().splitlines()) == 1 and "Traceback" not in error
    assert sorted(str(path) for path in inside.rglob("*")) == before


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(inside, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device", "best.pt")

    monkeypatch.setattr(koch.os, "replace", full)
    assert koch.main(["train", *TINY, "--name", "full"]) == 2
    error = capsys.readouterr().err
    assert "No space left on device" in error and len(error.strip().splitlines()) == 1
    assert list((inside / "runs" / "full").iterdir()) == []


def test_a_loss_that_is_no_number_stops_the_training_in_one_line(inside, monkeypatch, capsys):
    monkeypatch.setitem(koch.RECIPES, "fast", (koch.fast_minibatch, lambda net, h, target: h.sum() * float("nan")))
    assert koch.main(["train", *TINY, "--name", "nan"]) == 2
    assert "lower the learning rates" in capsys.readouterr().err


def test_help_shows_the_source_of_every_value_in_groups(capsys):
    with pytest.raises(SystemExit) as stop:
        koch.main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    for field in koch.dataclasses.fields(koch.Config):
        assert f"--{field.name.replace('_', '-')}" in text
    assert all(word in text for word in ("§3.2", "ours:", "deviates:", " data: ", " net: ", " training: ", "paper's recipe: "))


@pytest.mark.thorough
def test_koch_py_works_alone_in_an_empty_folder(tmp_path):
    (tmp_path / "koch.py").write_bytes((ROOT / "koch.py").read_bytes())
    environment = {key: value for key, value in os.environ.items() if key != "KOCH_DATA"}
    for arguments in (["train", "--data", "invented", "--steps", "3"], ["oneshot"]):
        command = [sys.executable, "koch.py", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0 and "within an alphabet" in done.stdout, done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("recipe, size", [("fast", 35), ("fast", 105), ("paper", 35), ("paper", 105)])
def test_both_recipes_train_and_are_tested_on_cuda(inside, recipe, size):
    options = [*TINY, "--recipe", recipe, "--pairs", "32", "--batch", "8", "--distort", "--name", f"cuda-{recipe}{size}"]
    assert koch.main(["train", *options, "--device", "cuda", "--size", str(size), "--precision", "bfloat16"]) == 0

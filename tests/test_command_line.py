"""The commands as a user types them: a whole tiny training, going on after a stop, which net answers, and bad input."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, random_drawings, rng, thin_twin
from PIL import Image

import koch

TINY = "--data invented --size 35 --device cpu --steps 6 --validations 2".split()
TINY += ["--alphabets", "2", "--characters", "3"]
PAPER = ["--recipe", "paper", "--pairs", "16", "--batch", "4", "--distort", "--steps", "8"]
END_OF_RUN = {"best.pt", "last.pt", "results.json", "trials.png"}


def command(koch_py, *arguments, folder):
    """Return the command line and its environment: no KOCH_DATA, so that nothing but the folder plays a part."""
    environment = {key: value for key, value in os.environ.items() if key != "KOCH_DATA"}
    return {"args": [sys.executable, str(koch_py), *map(str, arguments)], "cwd": folder, "env": environment}


def refuse(*_, **__):
    raise koch.urllib.error.URLError("no network")


@contextlib.contextmanager
def within(folder):
    """Be in a folder without data and network, with a thin net and few test trials: a training takes half a second."""
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.delenv("KOCH_DATA", raising=False)
        patched.setattr(koch.urllib.request, "urlopen", refuse)
        patched.setattr(koch, "N_FRESH", 60)
        patched.setattr(koch, "LOOKS", koch.LOOKS[:, :2])
        patched.setattr(koch, "N_PAIRS", 200)
        patched.setattr(koch, "reduced_twin", thin_twin)
        yield folder


@pytest.fixture(scope="module")
def world(invented):
    """Fifty alphabets of three invented characters each, in place of those that take ten seconds to invent."""
    alphabet, names = torch.arange(50).repeat_interleave(3), tuple(f"Invented{a + 1:02}" for a in range(50))
    return koch.Drawings(invented.images[:150], alphabet, torch.full((150,), 20), names, (), by_drawer=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, world):
    """A folder with a finished tiny training, runs/tiny, and what it said."""
    with within(tmp_path_factory.mktemp("trained")) as folder:
        koch.kept(Path("data/invented.npz"), koch.Drawings, lambda: world)
        with contextlib.redirect_stdout(io.StringIO()) as said:
            assert koch.main(["train", *TINY, "--name", "tiny"]) == 0
    (folder / "said.txt").write_text(said.getvalue())
    return folder


@pytest.fixture
def inside(trained, monkeypatch):
    """The test runs inside that folder; SIGTERM fails it, unless koch.main heeds it."""

    def fail(*_):
        raise AssertionError("SIGTERM is not heeded")

    handlers = signal.signal(signal.SIGTERM, fail), signal.signal(signal.SIGINT, signal.default_int_handler)
    with within(trained):
        yield trained
    signal.signal(signal.SIGTERM, handlers[0]), signal.signal(signal.SIGINT, handlers[1])


def weights_of(name, file="last.pt"):
    return torch.load(f"runs/{name}/{file}", weights_only=True)["net"]


def equal_weights(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def results_of(name):
    results = json.loads((Path("runs") / name / "results.json").read_text())
    return {key: value for key, value in results.items() if key != "seconds" and key != "config"}


# What a training leaves -----------------------------------------------------------------------------------------------


def test_a_training_leaves_two_checkpoints_results_with_their_log_and_pictures(inside):
    run = inside / "runs" / "tiny"
    assert {path.name for path in run.iterdir()} == END_OF_RUN
    results = json.loads((run / "results.json").read_text())
    assert (results["config"]["data"], results["config"]["seed"]) == ("invented", 0)
    assert results["torch"] == torch.__version__ and results["seconds"] > 0
    assert results["within"]["n"] == results["across"]["n"] == 60 and results["verification"]["n"] == 200
    assert results["within"]["chance"] == pytest.approx(1 / 3) and "lake" not in results
    assert 0.34 < results["within"]["pixels"] < 1 and results["within"]["interval"][0] < results["within"]["accuracy"]
    assert [row["step"] for row in results["log"]] == list(range(1, 7))
    taken = [row["step"] for row in results["log"] if row["validation"] is not None]
    assert taken == [3, 6] and all(0 < row["loss"] < 20 for row in results["log"])
    assert (6, results["log"][-1]["validation"]) == (results["best_step"], results["validation"])
    assert Image.open(run / "trials.png").width > 400


def test_a_figure_on_invented_trials_never_stands_beside_the_papers(inside):
    said = Path("said.txt").read_text()
    assert "trained on invented" in said and "90 training, 30 validation, 30 test characters" in said
    assert "paper" not in said and "92.0" not in said and "Lake" not in said
    assert re.search(r"fresh trials, within an alphabet +\d+\.\d\d +\d+\.\d \.\. +\d+\.\d +\d+\.\d\d +33\.3", said)


def test_oneshot_repeats_the_figures_of_the_training(inside, capsys):
    assert koch.main(["oneshot", "runs/tiny/best.pt", "--device", "cpu"]) == 0
    said, table = capsys.readouterr().out, Path("said.txt").read_text()
    assert table[table.index("percent right") : table.index("in runs/tiny")].strip() in said


def test_the_same_seed_gives_the_same_results_and_another_seed_others_on_the_same_trials(inside, monkeypatch):
    loop = spy(monkeypatch, "training_loop")
    assert koch.main(["train", *TINY, "--name", "again"]) == 0
    assert koch.main(["train", *TINY, "--name", "other", "--seed", "1"]) == 0
    trials = [how[3] for how in loop]
    assert torch.equal(trials[0].test, trials[1].test) and torch.equal(trials[0].support, trials[1].support)
    assert equal_weights(weights_of("tiny"), weights_of("again"))
    assert results_of("tiny") == results_of("again")
    assert not equal_weights(weights_of("tiny"), weights_of("other"))


# Which drawings and which weights reach which figure ------------------------------------------------------------------


def spy(monkeypatch, name):
    """Note the arguments of a function of koch.py and call it."""
    seen, function = [], getattr(koch, name)
    monkeypatch.setattr(koch, name, lambda *how, **more: seen.append(how) or function(*how, **more))
    return seen


def test_training_validation_and_test_each_get_their_alphabets_alone(inside, world, monkeypatch):
    drawn, loop = [], spy(monkeypatch, "training_loop")
    minibatch = lambda *how: drawn.append(how[0]) or koch.fast_minibatch(*how)  # noqa: E731
    monkeypatch.setitem(koch.RECIPES, "fast", (minibatch, koch.softmax_loss))
    calibrated, evaluated, pairs = (spy(monkeypatch, name) for name in ("calibration", "evaluate", "draw_pairs"))
    assert koch.main(["train", *TINY, "--name", "flow"]) == 0
    training, validation, test = (world.images[a : a + n] for a, n in ((0, 90), (90, 30), (120, 30)))
    small = koch.to_input(training.flatten(0, 1), 35).unflatten(0, (90, -1))[:, :, 0]  # shrunk before the first minibatch
    assert len(drawn) == 6 and all(torch.equal(drawings.images, small) for drawings in drawn)
    (_, _, _, trials, _), = loop
    assert len(trials.test) == koch.N_VALIDATION == 320 and torch.equal(trials.images, validation.flatten(0, 1))
    assert len(calibrated) == 1 and torch.equal(calibrated[0][1].images, validation)
    assert len(evaluated) == 1 and torch.equal(evaluated[0][1].images, test)
    of_validation, of_test = [drawings for drawings, n, _ in pairs if n == 200]  # the threshold's, the verification's
    assert torch.equal(of_validation.images, validation[:, 12:16])
    assert of_test.images.shape[:2] == (30, 4)  # features: whose, test_flow.py asks


def test_fresh_trials_are_of_all_test_drawers_within_an_alphabet_and_across(inside, world, monkeypatch):
    drawn, one_shot_trials = [], koch.one_shot_trials
    noted = lambda *how, **more: drawn.append(one_shot_trials(*how, **more)) or drawn[-1]  # noqa: E731
    monkeypatch.setattr(koch, "one_shot_trials", noted)
    assert koch.main(["oneshot", "runs/tiny/best.pt", "--device", "cpu"]) == 0
    assert len(drawn) == 2 and all(torch.equal(trials.images, world.images[120:].flatten(0, 1)) for trials in drawn)
    n_alphabets = [max(len((row // 20 // 3).unique()) for row in trials.support) for trials in drawn]
    assert n_alphabets[0] == 1 < n_alphabets[1]


def script(monkeypatch, values):
    """Let the validations of a training have these accuracies; return the weights that they were taken of."""
    seen, accuracy = [], koch.one_shot_accuracy

    def scripted(model, trials, h=None):
        if len(trials.test) != koch.N_VALIDATION:
            return accuracy(model, trials, h)
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return values[len(seen) - 1]

    monkeypatch.setattr(koch, "one_shot_accuracy", scripted)
    return seen


# By the paper's recipe the best weights answer the test, and of equals the later ones; by the fast one the last.
EPOCHS = ["--recipe", "paper", "--pairs", "8", "--batch", "4"]


@pytest.mark.parametrize("more, values, best", [(EPOCHS, (0.9, 0.5, 0.4), 0), (EPOCHS, (0.5, 0.9, 0.9), 2),
                                                (["--validations", "3"], (0.9, 0.5, 0.4), 2)])  # fmt: skip
def test_the_right_weights_answer_the_test(inside, monkeypatch, more, values, best):
    name, evaluated = f"best{best}-{len(more)}", spy(monkeypatch, "evaluate")
    seen = script(monkeypatch, values)
    assert koch.main(["train", *TINY, *more, "--name", name]) == 0
    assert equal_weights(evaluated[0][0].state_dict(), seen[best]) and results_of(name)["best_step"] == 2 * best + 2
    assert equal_weights(weights_of(name, "best.pt"), seen[best]) and equal_weights(weights_of(name), seen[2])
    net = koch.load_checkpoint(f"runs/{name}/best.pt")
    assert (net.step, net.validation) == (2 * best + 2, values[best]) and not net.training


def test_a_finished_training_can_be_resumed_and_says_the_same_again(inside):
    before, best = results_of("tiny"), weights_of("tiny", "best.pt")
    assert koch.main(["train", "--resume", "runs/tiny"]) == 0
    assert before == results_of("tiny") and equal_weights(best, weights_of("tiny", "best.pt"))


# Stopping and going on ------------------------------------------------------------------------------------------------


def stop_at(monkeypatch, step, number, recipe="fast"):
    """Let a training get a signal in the middle of a step 0, 1, ..."""
    minibatch, loss = koch.RECIPES[recipe]

    def stopped(*how):
        if how[2] == step:
            signal.raise_signal(number)
        return minibatch(*how)

    monkeypatch.setitem(koch.RECIPES, recipe, (stopped, loss))


SLOW = pytest.mark.thorough
STOPS = [("fast", signal.SIGTERM, 3), ("fast", signal.SIGINT, 5), ("paper", signal.SIGINT, 5)]
STOPS += [pytest.param(recipe, signal.SIGINT, at, marks=SLOW) for recipe in ("fast", "paper") for at in (1, 4, 6, 7)]


@pytest.mark.parametrize("recipe, number, at", STOPS)
def test_a_stopped_training_goes_on_to_the_very_same_end(inside, recipe, number, at, monkeypatch, capsys):
    options = [*TINY, *PAPER] if recipe == "paper" else [*TINY, "--steps", "8"]  # the fast one validates after 4 and 8
    if not Path(f"runs/whole-{recipe}").exists():
        assert koch.main(["train", *options, "--name", f"whole-{recipe}"]) == 0
    name = f"stopped-{recipe}-{at}"
    with monkeypatch.context() as patched:
        stop_at(patched, at, number, recipe)
        capsys.readouterr()
        assert koch.main(["train", *options, "--name", name]) == 130
    said = capsys.readouterr().err.strip()
    assert f"go on with: python koch.py train --resume runs/{name}" in said and "\n" not in said
    assert "results.json" not in {path.name for path in Path("runs", name).iterdir()}
    assert koch.main(["train", "--resume", f"runs/{name}"]) == 0
    assert equal_weights(weights_of(f"whole-{recipe}"), weights_of(name))
    assert equal_weights(weights_of(f"whole-{recipe}", "best.pt"), weights_of(name, "best.pt"))
    assert results_of(f"whole-{recipe}") == results_of(name)
    assert {path.name for path in Path("runs", name).iterdir()} == END_OF_RUN


def test_a_training_that_goes_on_remembers_the_best_validation_so_far(inside, monkeypatch):
    with monkeypatch.context() as patched:
        stop_at(patched, 5, signal.SIGINT, "paper")
        seen = script(patched, (0.8, 0.9))
        assert koch.main(["train", *TINY, *EPOCHS, "--name", "remembers"]) == 130
    script(monkeypatch, (0.85,))
    assert koch.main(["train", "--resume", "runs/remembers"]) == 0
    assert results_of("remembers")["validation"] == 0.9 and results_of("remembers")["best_step"] == 4
    assert equal_weights(weights_of("remembers", "best.pt"), seen[1])


class Signals:
    """Send SIGTERM when it is destroyed, where an exception ends nothing."""

    def __del__(self):
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_that_a_destructor_swallows_ends_the_training_all_the_same(inside, monkeypatch, capsys):
    minibatch, loss = koch.RECIPES["fast"]
    hook = sys.unraisablehook

    def swallowed(*how):
        if how[2] == 3:
            Signals()
        return minibatch(*how)

    monkeypatch.setitem(koch.RECIPES, "fast", (swallowed, loss))
    try:
        assert koch.main(["train", *TINY, "--name", "swallowed"]) == 130
    finally:
        sys.unraisablehook = hook
        koch.SWALLOWED.clear()
    said = capsys.readouterr()
    assert said.err.strip().splitlines()[-1].endswith("go on with: python koch.py train --resume runs/swallowed")
    assert "Traceback" not in said.err and "Exception" not in said.err


PHASES = [("train", name) for name in ("load_data", "split", "Run", "calibration", "verify", "draw_trials")]
PHASES += [("oneshot", "choose_net"), ("oneshot", "verify"), ("classify", "read_classes"), ("classify", "draw_page")]


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("name, phase", PHASES)
def test_a_signal_ends_every_phase_with_one_line_and_status_130(inside, own, name, phase, number, monkeypatch, capsys):
    query = str(own / "sign00/0.png")
    arguments = {"train": TINY, "oneshot": ["runs/tiny/best.pt"]}
    arguments["classify"] = ["--checkpoint", "runs/tiny/best.pt", "--support", str(own), query]
    monkeypatch.setattr(koch, phase, lambda *_, **__: signal.raise_signal(number))
    assert koch.main([name, *arguments[name]]) == 130
    said = capsys.readouterr().err.strip()
    assert said.startswith("koch.py: stopped") and "\n" not in said


def test_a_signal_while_the_last_line_is_printed_does_not_disturb_it(inside, monkeypatch):
    class Disturbed(io.StringIO):
        def write(self, text):
            signal.raise_signal(signal.SIGTERM)
            return super().write(text)

    monkeypatch.setattr(koch, "load_data", lambda config: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(sys, "stderr", Disturbed())
    try:
        assert koch.main(["train", *TINY]) == 130 and sys.stderr.getvalue() == "\nkoch.py: stopped\n"
    except KeyboardInterrupt:
        pytest.fail("the second signal came through")


def test_a_new_run_has_a_folder_that_no_other_has_and_only_the_first_process_makes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named, config = koch.Config(name="mine"), koch.Config(recipe="paper", data="invented", size=35, seed=3)
    assert koch.new_folder(named) == Path("runs/mine") and Path("runs/mine").is_dir()
    with pytest.raises(koch.UserError, match="runs/mine/ is there already; .* delete it, .* --resume runs/mine"):
        koch.new_folder(named)
    folders = [str(koch.new_folder(config)) for _ in range(3)]
    assert folders == [f"runs/paper-invented-35-seed3{end}" for end in ("", "-2", "-3")]
    monkeypatch.setattr(koch, "RANK", 1)
    assert koch.new_folder(koch.Config(name="other")) == Path("runs/other") and not Path("runs/other").exists()


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_real_training_with_one_line_and_a_checkpoint(trained, number):
    log, run = trained / "log.txt", f"runs/real{number}"
    with open(log, "w") as file:
        options = [*TINY, "--steps", "100000", "--validations", "50000", "--name", f"real{number}"]
        start = command(ROOT / "koch.py", "train", *options, folder=trained)
        heeded = lambda: signal.signal(number, signal.SIG_DFL)  # noqa: E731  a shell's background jobs ignore Ctrl-C
        process = subprocess.Popen(**start, stdout=file, stderr=file, preexec_fn=heeded)
        deadline = time.monotonic() + 120
        while not (trained / run / "last.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        try:
            assert process.wait(60) == 130, log.read_text()
        finally:
            process.kill()
    assert f"--resume {run}" in log.read_text() and "Traceback" not in log.read_text()


@pytest.mark.thorough
def test_copied_alone_into_an_empty_folder_every_command_works(tmp_path, own):
    shutil.copy(ROOT / "koch.py", tmp_path)

    def run(*arguments):
        how = command("koch.py", *arguments, folder=tmp_path)
        how["env"] |= {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}  # no network
        done = subprocess.run(**how, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = run("train", *TINY[2:])
    assert "Invented alphabets take its place" in said and "results go to runs/fast-" in said
    assert "2,000 fresh trials, within an alphabet" in run("oneshot")
    assert "sign03/0.png: " in run("classify", "--support", own, own / "sign03/0.png")


# Which net answers ----------------------------------------------------------------------------------------------------


def checkpoint(path, validation, hours_old, data="invented", **more):
    """Save a net of a training on some data, with the accuracy that it had on validation and an age."""
    config = koch.Config(data=data, size=35, device="cpu", precision="float32")
    more = {"step": 1, "validation": validation, "calibration": (2.0, 1.0)} | more
    koch.save_checkpoint(path, koch.SiameseNet(35).state_dict(), config, **more)
    os.utime(path, (time.time() - 3600 * hours_old,) * 2)
    return path


def test_the_net_that_is_best_on_validation_of_the_newest_runs_data_is_chosen_and_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(koch, "WEIGHTS", tmp_path / "weights.pt")
    config = koch.settle(koch.Config(device="cpu"))
    with pytest.raises(koch.UserError, match="python koch.py train makes one"):
        koch.choose_net(None, config)
    checkpoint(koch.WEIGHTS, 0.95, 100, data="omniglot")
    assert koch.choose_net(None, config).validation == 0.95  # the project's own
    for name, validation, age in (("a", 0.7, 3), ("b", 0.9, 2.5), ("c", 0.8, 1)):
        checkpoint(Path("runs", name, "best.pt"), validation, age)
    checkpoint(Path("runs", "d", "best.pt"), 0.99, 2, "mine")
    capsys.readouterr()
    net = koch.choose_net(None, config)
    said = capsys.readouterr().out
    assert net.validation == 0.9 and "runs/b/best.pt" in said and "best of 3 trained on invented" in said
    assert "90.0 % of validation right" in said
    checkpoint(Path("runs", "e", "best.pt"), 0.5, 0.5, "omniglot")
    assert koch.choose_net(None, config).validation == 0.95
    assert koch.choose_net("runs/a/best.pt", config).validation == 0.7  # the one that is named


def test_a_net_that_is_not_calibrated_is_calibrated_on_the_validation_pairs_of_its_data(inside, world, monkeypatch):
    koch.save_checkpoint(Path("stopped.pt"), koch.SiameseNet(35).state_dict(), koch.Config(size=35), step=1)
    finished = checkpoint(Path("finished.pt"), 0.5, 0)
    calibrated = spy(monkeypatch, "calibration")
    net = koch.choose_net("stopped.pt", koch.settle(koch.Config(device="cpu")))
    assert calibrated[0][0] is net and torch.equal(calibrated[0][1].images, world.images[90:120])
    net = koch.choose_net(finished, koch.settle(koch.Config(device="cpu")))
    assert (net.scale, net.shift) == (2.0, 1.0) and len(calibrated) == 1


def test_half_precision_loads_and_what_is_not_known_of_a_checkpoint_is_said_so(tmp_path):
    net, config = koch.SiameseNet(35), koch.Config(size=35)
    koch.save_checkpoint(tmp_path / "half.pt", net.half().state_dict(), config, step=5)
    loaded = koch.load_checkpoint(tmp_path / "half.pt")
    assert not loaded.calibrated and (loaded.validation, loaded.step, loaded.scale, loaded.shift) == (0, 5, 1, 0)
    assert loaded.join.weight.dtype == torch.float32 and torch.equal(loaded.join.weight, net.join.weight.float())


def test_a_checkpoint_in_which_one_bit_of_a_weight_has_changed_is_refused(tmp_path):
    net, path = koch.SiameseNet(35), tmp_path / "x.pt"
    koch.save_checkpoint(path, net.state_dict(), koch.Config(size=35), step=5)
    content, weights = bytearray(path.read_bytes()), net.join.weight.detach().numpy().tobytes()
    content[content.index(weights) + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(koch.UserError, match="x.pt is not a checkpoint of koch.py, or damaged"):
        koch.load_checkpoint(path)


WRONG = {
    "no net": ({"net": [1]}, "net"),
    "no step": ({"step": "5"}, "step"),
    "a validation in words": ({"validation": "good"}, "validation"),
    "an option of long ago": ({"config": {"loss": "softmax"}}, "loss"),
    "a size in words": ({"config": {"size": "large"}}, "size"),
    "a size of no net": ({"config": {"size": 36}}, "size"),
    "another size": ({"config": {"size": 51}}, "not those of a net of its size"),
    "a calibration without a shift": ({"calibration": (1.0,)}, "not enough values"),
    "a calibration in words": ({"calibration": "by hand"}, "could not convert"),
}


@pytest.mark.parametrize("changes, said", WRONG.values(), ids=WRONG.keys())
def test_a_checkpoint_that_holds_something_else_is_one_line_that_names_it(tmp_path, changes, said):
    koch.save_checkpoint(tmp_path / "x.pt", koch.SiameseNet(35).state_dict(), koch.Config(size=35), step=5)
    state = torch.load(tmp_path / "x.pt", weights_only=True)
    config = state["config"] | changes.get("config", {})
    torch.save(state | changes | {"config": config}, tmp_path / "x.pt")
    with pytest.raises(koch.UserError, match=said) as error:
        koch.load_checkpoint(tmp_path / "x.pt")
    assert "\n" not in str(error.value) and "x.pt" in str(error.value)


# Bad input ------------------------------------------------------------------------------------------------------------

BAD = {
    "no command": ([], "required"),
    "a command that is gone": (["verify"], "verify"),
    "unknown option": (["train", "--stepz", "3"], "--stepz"),
    "an option in short": (["train", "--step", "3"], "--step"),
    "not a number": (["train", "--steps", "many"], "many"),
    "no steps": (["train", "--steps", "-1"], "--steps is at least 0"),
    "a seed that is too large": (["train", "--seed", str(2**60)], "--seed is at least 0, below 2**40"),
    "no patience": (["train", "--recipe", "paper", "--patience", "0"], "--patience is at least 1"),
    "not a learning rate": (["train", "--learning-rate", "nan"], "--learning-rate"),
    "unknown data": (["train", "--data", "mnist2"], "mnist2 is no data set"),
    "too few rates": (["train", "--recipe", "paper", "--size", "35", "--learning-rates", "1,2"], "8, by commas"),
    "no weights to start from": (["train", *TINY, "--from", "nowhere.pt"], "nowhere.pt"),
    "weights of another size": (["train", *TINY, "--size", "105", "--from", "runs/tiny/best.pt"], "a net of size 105"),
    "no support": (["classify", "--support", "nowhere", "a.png"], "nowhere"),
    "no picture": (["classify", "--support", "one.png", "a.png"], "a.png"),
    "too many characters": (["train", *TINY, "--characters", "41"], "--characters"),
    "a path as a name": (["train", *TINY, "--name", "../x"], "--name"),
    "a taken name": (["train", *TINY, "--name", "tiny"], "--resume runs/tiny"),
    "no checkpoint": (["oneshot", "runs/none/best.pt"], "runs/none/best.pt"),
    "no checkpoint file": (["oneshot", "said.txt"], "said.txt is not a checkpoint"),
    "half a checkpoint": (["oneshot", "half.pt"], "half.pt is not a checkpoint"),
    "another size": (["oneshot", "other_size.pt"], "other_size.pt"),
    "nothing to resume": (["train", "--resume", "runs/none"], "runs/none/last.pt"),
    "resume a best.pt": (["train", "--resume", "best_only"], "best_only/last.pt"),
    "resume with options": (["train", "--resume", "runs/tiny", "--steps", "9"], "--resume"),
    "empty data folder": (["train", "--data-dir", "empty", "--steps", "1"], "empty/all_runs.zip is not there"),
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
    Image.radial_gradient("L").save("one.png")
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
    said = capsys.readouterr().err
    assert "No space left on device" in said and len(said.strip().splitlines()) == 1
    assert list((inside / "runs" / "full").iterdir()) == []


def test_a_loss_that_is_no_number_stops_the_training_in_one_line(inside, monkeypatch, capsys):
    monkeypatch.setitem(koch.RECIPES, "fast", (koch.fast_minibatch, lambda net, h, target: h.sum() * torch.nan))
    assert koch.main(["train", *TINY, "--name", "nan"]) == 2
    said = capsys.readouterr().err
    assert "the loss is nan at step 1" in said and len(said.strip().splitlines()) == 1
    assert not list((inside / "runs").glob("nan/best.pt"))


def test_help_shows_the_source_and_the_default_of_every_value_in_groups(capsys):
    with pytest.raises(SystemExit) as stop:
        koch.main(["train", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    for field in koch.dataclasses.fields(koch.Config):
        assert f"--{field.name.strip('_').replace('_', '-')}" in said
    groups = ["data: --data", "net: --size", "output: --name", "training: --from", "the paper's recipe: --pairs"]
    assert all(group in said for group in groups) and "(default: 150000)" in said and "(default: 1.0)" in said
    assert "§3.2" in said and "ours:" in said and "deviates:" in said


# Pictures of your own -------------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path, invented):
    """A folder of twelve classes of three pictures each, ink dark on light paper, as a user would have it."""
    for c in range(12):
        (tmp_path / "own" / f"sign{c:02}").mkdir(parents=True)
        for d in range(3):
            pixels = (1 - invented.images[12 * c, d].numpy()) * 255
            Image.fromarray(pixels).resize((70, 70)).save(tmp_path / "own" / f"sign{c:02}" / f"{d}.png")
    return tmp_path / "own"


def classified(capsys, *arguments):
    capsys.readouterr()
    named = [] if "--checkpoint" in arguments else ["--checkpoint", "runs/tiny/best.pt"]
    named += ["--precision", "float32"]  # so that logits can be compared to the last digits
    assert koch.main(["classify", *named, "--json", *map(str, arguments)]) == 0
    return json.loads(capsys.readouterr().out)


def test_classify_ranks_all_classes_by_their_mean_logits_whatever_the_order_of_files_and_pictures(
    inside, own, capsys, monkeypatch
):
    shutil.rmtree(own / "sign05")
    (own / "sign03" / "1.png").unlink()
    queries, net = [own / "sign03/2.png", own / "sign07/1.png"], koch.load_checkpoint("runs/tiny/best.pt")
    arguments = ["--checkpoint", "runs/tiny/best.pt", "--support", own]
    both = classified(capsys, *arguments, *queries)
    assert [entry["image"] for entry in both] == list(map(str, queries))
    for entry in both:
        assert {answer["class"] for answer in entry["answers"]} == {f"sign{c:02}" for c in range(12) if c != 5}
        p = [answer["p"] for answer in entry["answers"]]
        assert p == sorted(p, reverse=True) and all(0 <= value <= 1 for value in p)
        assert entry["same"] is (p[0] > 0.75) and entry["ink"] == "dark"
    h = features(net, queries[0])
    logits = {a["class"]: net.logit(h, features(net, *(own / a["class"]).iterdir())).mean() for a in both[0]["answers"]}
    for answer in both[0]["answers"]:
        assert answer["p"] == pytest.approx(torch.sigmoid(logits[answer["class"]]).item(), rel=1e-3)
        found = []
        for path in sorted((own / answer["class"]).iterdir()):
            koch.read_symbol(path, "", "auto", found)
        assert answer["pictures"] == found
    rglob = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda *how: iter(sorted(rglob(*how), reverse=True)))
    for entry, again in zip(both, reversed(classified(capsys, *arguments, *queries[::-1])), strict=True):
        assert [entry[key] for key in ("image", "same", "ink", "box")] == [again[key] for key in ("image", "same", "ink", "box")]
        for answer, other in zip(entry["answers"], again["answers"], strict=True):
            assert answer | {"p": pytest.approx(answer["p"], abs=1e-5)} == other
    assert Image.open("runs/classify.png").width > 100


def symbol(path):
    return koch.read_symbol(path, "", "auto", [])


def features(net, *paths):
    images = torch.stack([torch.from_numpy(symbol(path)) for path in paths])
    return koch.image_features(net, images)


def test_two_pictures_are_said_to_be_the_same_or_not_by_the_sign_of_their_logit(inside, own, capsys):
    first, other = own / "sign00/0.png", own / "sign01/0.png"
    for bias, same in ((1000.0, True), (-1000.0, False)):
        state = torch.load("runs/tiny/best.pt", weights_only=True)
        state["net"]["join.bias"].fill_(bias)
        torch.save(state, "moved.pt")
        arguments = ["--checkpoint", "moved.pt", "--support", str(first), str(other)]
        assert koch.main(["classify", *arguments]) == 0
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{other}: "))
        assert line.endswith(", the same" if same else ", not the same")
        (entry,) = classified(capsys, *arguments)
        assert entry["same"] is same and len(entry["answers"]) == 1


def test_classify_says_what_it_found_and_where_the_picture_is(inside, own, capsys):
    arguments = ["classify", "--support", str(own), str(own / "sign00/0.png"), "--picture", "ranking.png"]
    assert koch.main([*arguments, "--checkpoint", "runs/tiny/best.pt"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"sign00/0.png: (none of these; the nearest: )?sign\d\d \(p = [01]\.\d{3}\), sign\d\d", said)
    assert "same" not in said
    assert said.strip().endswith("picture: ranking.png") and Path("ranking.png").stat().st_size > 1000


def test_a_folder_or_zip_of_pictures_trains_a_net_and_is_a_test_set_for_another(inside, own, capsys, monkeypatch):
    few = ["--drawings", "2", "--characters", "3"]
    archive = shutil.make_archive(str(own), "zip", own)
    own = shutil.move(own, "my_omniglot")  # a name that has Omniglot's in it
    assert koch.main(["train", *TINY, *few, "--data", str(own), "--name", "mine", "--ink", "dark"]) == 0
    assert "8 training, 2 validation, 2 test characters" in capsys.readouterr().out
    assert koch.main(["train", *TINY, *few, "--data", archive, "--name", "zip"]) == 0
    assert equal_weights(weights_of("mine"), weights_of("zip"))
    tested = spy(monkeypatch, "evaluate")
    assert koch.main(["oneshot", "runs/mine/best.pt"]) == 0  # the two classes that it was not trained on
    assert tested[0][2].ink == "dark"  # as it was read for the training
    assert koch.main(["oneshot", "runs/mine/best.pt", "--data", f"./{own}/"]) == 0  # the same folder
    assert koch.main(["oneshot", "runs/tiny/best.pt", "--data", str(own)]) == 0  # this net has seen none of them
    kept = [("sign04", "sign09")] * 2
    assert [how[1].characters for how in tested] == [*kept, tuple(f"sign{c:02}" for c in range(12))]


def test_without_a_checkpoint_the_projects_own_weights_are_used_and_named(own, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    queries = [str(own / f"sign{c:02}/1.png") for c in range(12)]
    assert koch.main(["classify", "--support", str(own), *queries]) == 0
    said = capsys.readouterr().out
    right = [f"{query}: sign{c:02} (p = " in said for c, query in enumerate(queries)]
    assert "tutorials/weights/reduced.pt" in said and sum(right) >= 10
    assert koch.main(["classify", "--support", str(own / "sign01/2.png"), queries[1]]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith(", the same")
    assert koch.WEIGHTS.stat().st_size < 5e6


def test_what_belongs_to_no_class_is_said_to_be_none_of_them_and_ranked_all_the_same(own, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    kept = shutil.move(own / "sign05", tmp_path / "elsewhere")
    strangers = [str(Path(kept) / f"{d}.png") for d in range(3)]
    assert koch.main(["classify", "--support", str(own), *strangers]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "elsewhere" in line]
    assert len(lines) == 3 and sum(": none of these; the nearest: sign" in line for line in lines) >= 2
    assert all(line.count("(p = ") == 5 for line in lines)


def test_a_net_of_your_own_pictures_sees_all_of_a_picture_and_one_of_drawings_the_symbol(inside, own, capsys, monkeypatch):
    state = torch.load("runs/tiny/best.pt", weights_only=True)
    state["config"]["data"] = str(own)
    torch.save(state, "mine.pt")
    drawn = spy(monkeypatch, "draw_page")
    picture = own / "sign00/0.png"
    for checkpoint, seen in (("mine.pt", koch.read_picture(picture, "")), ("runs/tiny/best.pt", symbol(picture))):
        (entry,) = classified(capsys, "--checkpoint", checkpoint, "--support", own, picture)
        assert np.array_equal(drawn.pop()[2][0][2], seen) and ("box" in entry) is (checkpoint != "mine.pt")


# Starting from a checkpoint -------------------------------------------------------------------------------------------


def test_a_training_can_start_from_a_checkpoints_weights_and_takes_its_size(inside):
    config = koch.settle(koch.Config(from_="runs/tiny/best.pt", device="cpu"))
    assert config.size == 35 and equal_weights(koch.Run(config).net.state_dict(), weights_of("tiny", "best.pt"))
    assert koch.settle(koch.Config(from_=str(koch.WEIGHTS), device="cpu")).size == 51
    other = koch.Run(koch.dataclasses.replace(config, from_=""))
    assert not equal_weights(other.net.state_dict(), weights_of("tiny", "best.pt"))


def test_a_run_goes_on_without_the_checkpoint_that_it_started_from(inside):
    shutil.copy("runs/tiny/best.pt", "start.pt")
    assert koch.main(["train", *TINY, "--from", "start.pt", "--name", "tuned"]) == 0
    Path("start.pt").unlink()
    assert koch.main(["train", "--resume", "runs/tuned"]) == 0 and not equal_weights(weights_of("tuned"), weights_of("tiny"))


def test_a_tie_can_be_drawn(tmp_path):
    trials = koch.one_shot_trials(random_drawings(), 20, 30, rng())
    koch.draw_trials(trials, torch.full((30,), -1), tmp_path / "trials.png")
    assert (tmp_path / "trials.png").read_bytes()[:4] == b"\x89PNG"


# The GPU --------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("recipe", ["fast", "paper"])
@pytest.mark.parametrize("size", ["35", "105"])
def test_both_recipes_train_and_are_tested_on_cuda(inside, recipe, size):
    name = f"cuda-{recipe}-{size}"
    options = [*TINY, "--recipe", recipe, "--size", size, "--device", "cuda", "--pairs", "64", "--distort"]
    assert koch.main(["train", *options, "--name", name]) == 0
    assert 0 <= results_of(name)["within"]["accuracy"] <= 1
    assert koch.main(["oneshot", f"runs/{name}/best.pt"]) == 0

"""Planted mistakes in koch.py, and a runner that puts them before the quick tests, which should reject each one.

    python tests/koch_mutants.py [--sample 30] [--seed 1] [WORD ...]    those whose sentences hold the words, or some

A mistake is one piece of text that stands exactly once in koch.py, and what is put in its place.
"""

import argparse
import os
import random
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).resolve().parent
SOURCE = TESTS.parent / "koch.py"
FILES = ("model", "learning", "paper_recipe", "verification", "oneshot", "data", "folders", "symbols", "command_line", "devices",
         "flow")


class Mutant(NamedTuple):
    """Hold a mistake. file: the tests that should find it, test_FILE.py, which are taken first"""

    file: str
    mistake: str
    old: str
    new: str


MUTANTS = [
    # § 3.1 Model
    Mutant("model", "the second layer has filters of 5x5", "nn.Conv2d(64, 128, 7)", "nn.Conv2d(64, 128, 5)"),
    Mutant("model", "the twins' features are joined by their product",
           "differences = (h1 - h2).abs()", "differences = (h1 * h2)"),
    Mutant("model", "the join has the distance's sign in it", "differences = (h1 - h2).abs()", "differences = (h1 - h2)"),
    Mutant("model", "the logit is a probability already",
           "self.join(differences).squeeze(-1)", "self.join(differences).squeeze(-1).sigmoid()"),
    Mutant("model", "the logit is a sum over the whole batch", "self.join(differences).squeeze(-1)",
           "(self.join(differences).squeeze(-1) * 0 + (h1 - h2).abs().mean(0) @ self.join.weight[0])"),
    Mutant("model", "the gradient goes through the twin of one side only", "            h = self.twin(x)\n",
           "            h = self.twin(x)\n            h = torch.cat([h[: len(h) // 2], h[len(h) // 2 :].detach()])\n"),
    # § 3.2 Learning: initial weights, distortions
    Mutant("learning", "theta is in degrees where radians are meant", "[math.radians(10), 0.3,", "[10.0, 0.3,"),
    Mutant("learning", "shear is as wide as scale", "math.radians(10), 0.3, 0.3,", "math.radians(10), 0.2, 0.3,"),
    Mutant("learning", "every component is always present", "return draw * present * ranges", "return draw * ranges"),
    Mutant("learning", "a distorted image's corners are ink",
           'F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)',
           "1 - F.grid_sample(1 - images, grid, align_corners=False)"),
    Mutant("learning", "the turn is a mirror",
           "theta.cos(), -theta.sin(), theta", "theta.cos(), theta.sin(), theta"),
    # § 3.2: minibatches
    Mutant("paper_recipe", "only the first twin is distorted",
           "x = distort(x, pairs.distortions[:, number, pair].flatten(0, 1))",
           "x[: len(pair)] = distort(x[: len(pair)], pairs.distortions[0, number, pair])"),
    Mutant("paper_recipe", "both twins get one distortion", "pairs.distortions[:, number, pair].flatten(0, 1)",
           "pairs.distortions[:1, number, pair].expand(2, -1, -1).flatten(0, 1)"),
    Mutant("paper_recipe", "distorted copies are never made", "n_copies = 9 if config.distort else 1", "n_copies = 1"),
    Mutant("paper_recipe", "all epochs have one order", "1_000_003 * config.seed + epoch)", "1_000_003 * config.seed)"),
    Mutant("paper_recipe", "a sigmoid stands before the loss that has its own",
           "F.binary_cross_entropy_with_logits(net.logit(*h.chunk(2)), same)",
           "F.binary_cross_entropy_with_logits(net.logit(*h.chunk(2)).sigmoid(), same)"),
    Mutant("learning", "the fast recipe does not distort",
           "distortions = draw_distortions(len(x), rng, config.distortion)",
           "distortions = draw_distortions(len(x), rng, 0.0)"),
    Mutant("learning", "all drawings of a minibatch bend alike",
           "torch.randn(len(x), 2, 4, 4, generator=rng", "torch.randn(1, 2, 4, 4, generator=rng"),
    Mutant("learning", "bends are exchanged, right for down",
           "align_corners=True).permute(0, 2, 3, 1)", "align_corners=True).permute(0, 2, 3, 1).flip(3)"),
    Mutant("learning", "characters of other alphabets are drawn too",
           "order.masked_fill(drawings.alphabet != alphabets, -1)",
           "order.masked_fill(drawings.alphabet < 0 * alphabets, -1)"),
    Mutant("learning", "drawings that are not there are drawn",
           "order.masked_fill(missing, -1).topk(M)", "order.topk(M)"),
    Mutant("learning", "a character's drawings are drawn with replacement",
           "drawers = order.masked_fill(missing, -1).topk(M).indices",
           "drawers = order.masked_fill(missing, -1).topk(1).indices.repeat(1, 1, M)"),
    Mutant("learning", "single drawings turn, so that characters get mirrored twins", "coins[:, :, None, None, None]",
           "(coins[:, :, None] & (torch.arange(images.shape[1]) > 0))[..., None, None]"),
    Mutant("learning", "minibatches come from the global generator",
           "torch.randint(len(drawings.names), (A, 1), generator=rng, device=device)",
           "torch.randint(len(drawings.names), (A, 1), device=device)"),
    # § 3.2: the loss, the optimisers, the schedules
    Mutant("learning", "the softmax counts a drawing with itself as same",
           "same = same & ~torch.eye(len(characters[0]), dtype=torch.bool, device=h.device)", "same = same"),
    Mutant("learning", "same pairs compete with same pairs",
           "logits.masked_fill(same, -math.inf).logsumexp", "logits.masked_fill(~same, -math.inf).logsumexp"),
    Mutant("paper_recipe", "layer-wise rates are the first layer's for all",
           "zip(found, *values, strict=True)", "zip(found, *([v[0]] * len(v) for v in values), strict=True)"),
    Mutant("paper_recipe", "the slope of the penalty lacks its 2", '"weight_decay": 2 * l2})', '"weight_decay": l2})'),
    Mutant("paper_recipe", "batch normalisation and biases do not learn",
           'groups.append({"params": rest, "highest": eta, "mu": mu, "weight_decay": 0.0})', "pass"),
    Mutant("paper_recipe", "the learning rate falls by one percent a step",
           "factor = 0.99**epoch", "factor = 0.99**step"),
    Mutant("paper_recipe", "a shorter training ends before its rates have fallen",
           "epoch = config.epochs * step // config.steps", "epoch = step // epoch_steps(config)"),
    Mutant("paper_recipe", "the momentum rises within the first epoch",
           "min(1, epoch / 5)", "min(1, step / 5)"),
    Mutant("learning", "the learning rate does not fall",
           "factor = rising * 0.5 * (1 + math.cos(math.pi * step / config.steps))", "factor = rising"),
    Mutant("learning", "the join is never trained",
           "rest = [p for p in net.parameters() if not any(p is weight for weight in weights)]",
           "rest = [p for p in net.twin.parameters() if p.ndim == 1]"),
    Mutant("learning", "Muon has no momentum",
           'velocity.lerp_(p.grad, 1 - group["momentum"])', "velocity.copy_(p.grad)"),
    # § 3.2: the training loop
    Mutant("paper_recipe", "training never stops early",
           "run.step - run.improved < patience", "run.step - run.improved < math.inf"),
    Mutant("paper_recipe", "gradients add up over the steps", "        run.net.zero_grad()\n", ""),
    Mutant("learning", "only the first optimizer steps",
           "for optimizer in run.optimizers:\n            optimizer.step()",
           "for optimizer in run.optimizers[:1]:\n            optimizer.step()"),
    Mutant("command_line", "the last weights are kept for the best",
           "if accuracy >= run.best or config", "if accuracy >= 0 or config"),
    Mutant("command_line", "the first weights of equals are kept",
           "if accuracy >= run.best or config", "if accuracy > run.best or config"),
    Mutant("command_line", "the fast recipe keeps the best of few validations",
           'if accuracy >= run.best or config.recipe == "fast":', "if accuracy >= run.best:"),
    Mutant("learning", "the best weights are no copy and train on",
           "{name: tensor.clone() for name, tensor in run.net.state_dict().items()}", "run.net.state_dict()"),
    # § 4.1 drawings and splits
    Mutant("data", "validation and test share a drawer", '"test": slice(16, 20)}', '"test": slice(15, 20)}'),
    Mutant("data", "the order of the files in the zip decides the split",
           "sorted(classes, key=lambda name: (name in evaluation, name[0] in TEST_ALPHABETS, name))", "list(classes)"),
    Mutant("data", "validation and test alphabets are exchanged",
           "[0] * 30 + [1] * 10 + [2] * 10", "[0] * 30 + [2] * 10 + [1] * 10"),
    Mutant("data", "training and test share alphabets", "[0] * 30 + [1] * 10 + [2] * 10", "[0] * 40 + [2] * 10"),
    # § 4.2 pairs and verification
    Mutant("verification", "a same pair may be one drawing twice",
           "(drawer1 + 1 + random(counts[second] - 1)) % counts[second]", "random(counts[second])"),
    Mutant("verification", "a different pair may be one character",
           "(place + 1 + random(n_characters[a] - 1)) % n_characters[a]", "random(n_characters[a])"),
    Mutant("verification", "the second character is of another alphabet",
           "other = usable[start + (place", "other = usable[(place"),
    Mutant("paper_recipe", "the pairs as they were drawn are distorted too",
           "F.pad(drawn, (0, 0, 0, 0, 1, 0))", "drawn[:, [0, *range(8)]]"),
    Mutant("verification", "the threshold is chosen on the test drawers",
           'drawings = only_drawers(validation, "validation")', 'drawings = only_drawers(validation, "test")'),
    Mutant("verification", "what is not a number counts as different and is right",
           "logits > 0, logits <= 0)", "logits > 0, ~(logits > 0))"),
    Mutant("verification", "probabilities fall where logits rise",
           "2 * (high.mean() - low.mean())", "2 * (low.mean() - high.mean())"),
    Mutant("verification", "a pair at the threshold is called the same",
           "thresholds, right=True)", "thresholds, right=False)"),
    Mutant("verification", "the threshold is shifted before it is scaled",
           "return scale, -scale * threshold", "return scale, -threshold"),
    # § 4.3 one-shot trials
    Mutant("oneshot", "the right answer is always the first",
           "answer = torch.randint(n_way, (), generator=rng)", "answer = torch.tensor(0)"),
    Mutant("oneshot", "the test image is its own support image",
           "test.append(characters[answer] * n_drawers + present_first[answer, 1])",
           "test.append(characters[answer] * n_drawers + present_first[answer, 0])"),
    Mutant("oneshot", "the support is drawn with replacement", "pool[torch.randperm(len(pool), generator=rng)[:n_way]]",
           "pool[torch.randint(len(pool), (n_way,), generator=rng)]"),
    Mutant("oneshot", "small alphabets make easier trials", "pools = [pool for pool in pools if len(pool) >= n_way]",
           "pools = [pool for pool in pools if len(pool) >= 2]"),
    Mutant("oneshot", "trials are across alphabets where they should be within one",
           "alphabet if within_alphabet else 0", "alphabet * 0"),
    Mutant("oneshot", "each support image is by another drawer",
           "support.append(characters * n_drawers + present_first[:, 0])",
           "support.append(characters * n_drawers + drawers[torch.arange(n_way) % n_drawers])"),
    Mutant("oneshot", "trials come from the global generator",
           "drawers = torch.randperm(n_drawers, generator=rng)", "drawers = torch.randperm(n_drawers)"),
    Mutant("oneshot", "the first of equal logits wins",
           "clear = ((logits == logits.amax(1, keepdim=True)).sum(1) == 1) & ", "clear = "),
    Mutant("oneshot", "a logit that is not a number is a low one",
           "for p in few]).float().cpu()", "for p in few]).float().cpu().nan_to_num(-1e30)"),
    Mutant("learning", "the net stays in evaluation mode after a validation",
           "            run.net.train()\n", "            pass\n"),
    Mutant("oneshot", "pixel 1-NN is the dot product",
           "return F.normalize(images.flatten(1))", "return images.flatten(1)"),
    # Files
    Mutant("data", "ink is 0 and paper 1",
           "return 1 - values if", "return values if"),
    Mutant("data", "a download is kept whatever its checksum", 'raise ValueError("what came', 'print("what came'),
    Mutant("data", "the order of the disk is the order of the pictures",
           "        pictures.sort(key=lambda parts: (parts[:-1] or (Path(parts[0]).stem,), parts))  # class by class\n", ""),
    Mutant("data", "bits are packed along the wrong axis",
           'np.packbits(arrays.pop("images"), axis=-1)', 'np.packbits(arrays.pop("images"), axis=-2)'),
    Mutant("data", "a folder that cannot be written ends the run",
           'path = Path("data") / path.name', "pass"),
    Mutant("folders", "ink is dark whatever the border says",
           'ink == "auto" and bool(np.median(border) >= (low + high) / 2)', 'ink == "auto"'),
    Mutant("folders", "transparent parts are black", 'picture.size, "white")', 'picture.size, "black")'),
    Mutant("folders", "a turn that the camera noted is left out", "ImageOps.exif_transpose(Image.open(file))", "Image.open(file)"),
    Mutant("folders", "a bad member of a zip without a name is good", "archive.testzip() is not None", "archive.testzip()"),
    Mutant("folders", "a PNG's checksums are not looked at", "        Image.open(file).verify()", "        Image.open(file)"),
    # symbols on any paper
    Mutant("symbols", "light on paper is even", "inked(off_paper(values), ink)", "inked(values, ink)"),
    Mutant("symbols", "the paper's light is fitted to ink too", "paper = abs(contrast) <= ", "paper = abs(contrast) >= -"),
    Mutant("symbols", "a speck is ink", "ImageFilter.RankFilter(3, 6)", "ImageFilter.RankFilter(3, 8)"),
    Mutant("symbols", "Omniglot's drawings are cut out too",
           "if values.shape == (SIDE, SIDE) and len(np.unique(values)) == 2:", "if False:"),
    Mutant("command_line", "what is like no class is named", "known = max(p) > (0.75", "known = max(p) > (0.0"),
    Mutant("command_line", "--from leaves the weights as they were drawn",
           'self.net.load_state_dict(load_state(config.from_)["net"])', 'load_state(config.from_)["net"]'),
    Mutant("command_line", "a net of your own pictures sees symbols",
           'if net.config.data in ("omniglot", "invented"):', "if net.config.data:"),
    # runs, checkpoints and commands
    Mutant("command_line", "resuming forgets the optimizers",
           "            optimizer.load_state_dict(saved)", "            pass"),
    Mutant("learning", "--minutes outranks the other options",
           " if getattr(config, name) == getattr(Config, name)}", "}"),
    Mutant("learning", "every step draws the same",
           "(step * N_PROCESSES + RANK) + config.seed", "RANK + config.seed"),
    Mutant("devices", "all processes draw the same",
           "(step * N_PROCESSES + RANK) + config.seed", "(step * N_PROCESSES) + config.seed"),
    Mutant("devices", "gradients of processes are added", "            tensor /= N_PROCESSES", "            pass"),
    Mutant("devices", "the statistics of batch normalisation are the first process's",
           "            average(statistics)", "            pass"),
    Mutant("devices", "a step makes a tensor on the CPU",
           "torch.eye(len(characters[0]), dtype=torch.bool, device=h.device)",
           "torch.eye(len(characters[0]), dtype=torch.bool)"),
    Mutant("devices", "a step waits for a number",
           "return (losses * same).sum() / same.sum()", "return losses[same].mean()"),
    Mutant("model", "differences that count for a pair count against it",
           "torch.cdist(nearer, nearer, p=1) - torch", "-torch.cdist(nearer, nearer, p=1) - torch"),
    Mutant("oneshot", "an image is not looked at as it is", "LOOKS[:, :n_looks]", "LOOKS[:, 8 - n_looks :]"),
    Mutant("oneshot", "the looks of an image are those of others",
           ".view(n_looks, len(part), -1).transpose(0, 1)", ".view(len(part), n_looks, -1)"),
    Mutant("command_line", "resuming forgets the best validation so far",
           "best=float, best_step=int, rows=list", "rows=list"),
    Mutant("learning", "the seed does not reach the initial weights",
           "torch.manual_seed(config.seed)  #", "torch.manual_seed(0)  #"),
    Mutant("command_line", "the last weights answer the test",
           'net = load_checkpoint(folder / "best.pt", config)', 'net = load_checkpoint(folder / "last.pt", config)'),
    Mutant("command_line", "the threshold is chosen on the test alphabets",
           "calibration(net, validation)\n        more", "calibration(net, test)\n        more"),
    Mutant("command_line", "validation watches the test alphabets",
           "config), validation, None", "config), test, None"),
    Mutant("command_line", "training takes the test alphabets too",
           "watched, pairs = enough_drawings(training", "watched, pairs = enough_drawings(drawings"),
    Mutant("paper_recipe", "the paper's recipe trains on all drawers",
           'training, watched = only_drawers(training, "training"), only', "training, watched = training, only"),
    Mutant("command_line", "the newest net answers and not the best",
           'path = max(rivals, key=lambda path: states[path]["validation"])', "path = rivals[0]"),
    Mutant("command_line", "a class's logit is that of its last picture",
           "image_features(net, shown[:n])).mean(1))", "image_features(net, shown[:n]))[:, -1])"),
    Mutant("command_line", "p is the chance that they differ",
           "logits.sigmoid().tolist()", "(-logits).sigmoid().tolist()"),
    Mutant("command_line", "other pictures are split, and a fifth is the test",
           "if test.by_drawer or Path(data).resolve() == Path(net.config.data).resolve():  #", "if True:  #"),
    Mutant("command_line", "a net is tested on its training's folder, spelled otherwise",
           "Path(data).resolve() == Path(net.config.data).resolve()", "data == net.config.data"),
    Mutant("command_line", "a net's pictures are read with another ink than in its training",
           "data=net.config.data, ink=net.config.ink)", "data=net.config.data)"),
    Mutant("command_line", "options may be shortened", "allow_abbrev=False", "allow_abbrev=True"),
    Mutant("folders", "the first picture of a class decides how all of it are kept",
           "{np.result_type(*images) for images in", "{images[0].dtype for images in"),
    Mutant("command_line", "SIGTERM is not heeded",
           "                signal.signal(number, stop)", "                pass"),
    Mutant("command_line", "a loss that is no number trains on", "if not math.isfinite(mean):", "if mean == math.inf:"),
    # the flow: which drawings, drawers, alphabets and weights reach which figure
    Mutant("flow", "training and validation are exchanged",
           "training, validation, test = (part.to(config.device) for part in split(drawings))",
           "validation, training, test = (part.to(config.device) for part in split(drawings))"),
    Mutant("flow", "the training goes on with the validation alphabets", "training_loop(run, training, pairs",
           "training_loop(run, validation, pairs"),
    Mutant("flow", "the paper's recipe watches the training alphabets",
           'only_drawers(validation, "validation")\n        pairs',
           'only_drawers(training, "training")\n        pairs'),
    Mutant("flow", "the paper's recipe watches the training drawers",
           'only_drawers(validation, "validation")\n        pairs',
           'only_drawers(validation, "training")\n        pairs'),
    Mutant("flow", "the paper's recipe watches the test drawers",
           'only_drawers(validation, "validation")\n        pairs',
           'only_drawers(validation, "test")\n        pairs'),
    Mutant("flow", "the paper's recipe watches all drawers", 'only_drawers(validation, "validation")\n        pairs',
           "validation\n        pairs"),
    Mutant("flow", "the paper's recipe trains on the validation drawers",
           'only_drawers(training, "training"), only', 'only_drawers(training, "validation"), only'),
    Mutant("flow", "the fast recipe watches one alphabet alone", "enough_drawings(training, config), validation, None",
           "enough_drawings(training, config), only_characters(validation, validation.alphabet == 0), None"),
    Mutant("flow", "the threshold is chosen on all drawers", 'drawings = only_drawers(validation, "validation")',
           "drawings = validation"),
    Mutant("flow", "the threshold is chosen on the training drawers",
           'drawings = only_drawers(validation, "validation")', 'drawings = only_drawers(validation, "training")'),
    Mutant("flow", "verification is of all drawers",
           "features = only_drawers(test", "features = (lambda by_all, _: by_all)(test"),
    Mutant("flow", "verification is of the drawers of the threshold",
           'test.images.shape[:2])), "test")', 'test.images.shape[:2])), "validation")'),
    Mutant("flow", "the validation alphabets answer the test", "evaluate(net, test, config)\n    results |=",
           "evaluate(net, validation, config)\n    results |="),
    Mutant("flow", "fresh trials are of the test drawers alone",
           'drawn["within"] = one_shot_trials(test, None, N_FRESH, rng)',
           'drawn["within"] = one_shot_trials(only_drawers(test, "test"), None, N_FRESH, rng)'),
    Mutant("flow", "trials across alphabets stay within them", "N_FRESH, rng, within_alphabet=False)", "N_FRESH, rng)"),
    Mutant("flow", "drawers are forgotten with the characters left out",
           "drawings.counts[mask], names, characters, drawings.by_drawer)",
           "drawings.counts[mask], names, characters)"),
    Mutant("flow", "columns of drawers are shifted by one",
           "images = drawings.images[:, DRAWERS[part]]", "images = drawings.images.roll(1, 1)[:, DRAWERS[part]]"),
    Mutant("flow", "the paper's best weights are the first", "if accuracy >= run.best or config",
           "if run.best < 0 or config"),
    Mutant("command_line", "best.pt is never replaced", "if self.best_weights and self.best_step == self.step:",
           'if self.best_weights and not (folder / "best.pt").exists():'),
    Mutant("command_line", "going on takes the options' defaults",
           'settle(state["config"] if resume else config)', "settle(config)"),
    Mutant("command_line", "going on begins the steps anew", 'SAVED = dict(step=int, improved=int',
           "SAVED = dict(improved=int"),
    Mutant("paper_recipe", "every validation counts as a better one", "if accuracy > run.best:\n", "if True:\n"),
    Mutant("paper_recipe", "patience is counted in steps", "config.patience * epoch_steps(config) if",
           "config.patience if"),
    Mutant("command_line", "a finished net is calibrated once more", "if not net.calibrated:  # else",
           "if True:  # else"),
    Mutant("command_line", "the calibration is not kept", '"calibration": (net.scale, net.shift)}',
           '"calibration": (1.0, 0.0)}'),
    Mutant("command_line", "a calibration is not heeded", 'map(float, state.get("calibration", (1.0, 0.0)))',
           "1.0, 0.0"),
    Mutant("command_line", "a stopped net's threshold is chosen on the test alphabets",
           "_, validation, _ = split(load_data(dataclasses", "_, _, validation = split(load_data(dataclasses"),
    Mutant("command_line", "oneshot answers trials of the training alphabets", "_, _, test = split(test)",
           "test, _, _ = split(test)"),
    Mutant("oneshot", "a net that saw no turned alphabets looks at turned images",
           'if net.config.recipe == "fast" and net.config.turns else 1', "if True else 1"),
    Mutant("command_line", "validation trials are drawn by the run's seed",
           "N_VALIDATION, torch.Generator().manual_seed(TRIALS_SEED))",
           "N_VALIDATION, torch.Generator().manual_seed(config.seed))"),
    Mutant("command_line", "fresh trials are others each time",
           "drawn, rng = {}, torch.Generator().manual_seed(TRIALS_SEED)", "drawn, rng = {}, torch.Generator()\n    rng.seed()"),
    Mutant("command_line", "a net of other data than the newest run's may answer",
           'if states[path]["config"].data == data]', "if True]"),
    Mutant("oneshot", "an image's features are those of the image before it in the batch",
           ".transpose(0, 1).flatten(1))", ".transpose(0, 1).flatten(1).roll(1, 0))"),
    Mutant("learning", "all alphabets of a minibatch turn alike",
           "torch.rand(3, A, generator=rng, device=device) < 0.5",
           "(torch.rand(3, 1, generator=rng, device=device) < 0.5).expand(3, A)"),
    # what is read and where it is written
    Mutant("data", "a zip with fewer pictures than it had is read",
           'min(len(archive.namelist()), 65535) != int.from_bytes(end[6:8], "little")', "False"),
    Mutant("data", "a cache with a changed bit is read", "np.load(sound(path).filename)", "np.load(path)"),
    Mutant("command_line", "a checkpoint with a changed bit is read", "torch.load(sound(path).filename", "torch.load(path"),
    Mutant("command_line", "two trainings at once share a folder", "                path.mkdir(parents=True)",
           "                path.mkdir(parents=True, exist_ok=not config.name)"),
    Mutant("command_line", "a signal that a destructor swallows is forgotten", "            if SWALLOWED:", "            if []:"),
    Mutant("command_line", "a second signal disturbs the last line",
           "        signal.signal(number, signal.SIG_IGN)\n    sys", "        pass\n    sys"),
]  # fmt: skip
CONTROL = Mutant("model", "no mistake", "SIDE, N_CHARACTERS = 105", "SIDE, N_CHARACTERS = 105")


def patched(mutant):
    """Return koch.py's text with the mistake in it. Raises ValueError unless its old text stands there exactly once."""
    text = SOURCE.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.mistake}: {mutant.old!r} stands there {text.count(mutant.old)} times")
    return text.replace(mutant.old, mutant.new)


def try_one(mutant, log):
    """Put a mutant in koch's place and take the quick tests; return pytest's exit status: 1 if it was rejected."""
    import pytest

    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1), os.dup2(1, 2)
    module = sys.modules["koch"] = types.ModuleType("koch")
    module.__file__ = str(SOURCE)  # --help reads it
    exec(compile(patched(mutant), str(SOURCE), "exec"), vars(module))
    copy = Path(f"{log}.d", "koch.py")  # for the processes that a test starts
    copy.parent.mkdir()
    copy.write_text(patched(mutant), encoding="utf-8")
    os.environ["PYTHONPATH"] = str(copy.parent)
    names = [mutant.file, *(name for name in FILES if name != mutant.file)]
    paths = [f"{TESTS}/test_{name}.py" for name in names]
    options = ["-x", "-q", "-p", "no:cacheprovider", "--rootdir", str(TESTS.parent)]
    return int(pytest.main([*options, *paths]))


def outcomes(mutants, folder):
    """Try mutants, each in a fork of this process, two at a time; yield each with pytest's status and the seconds."""
    import matplotlib.figure  # noqa: F401
    import pytest  # noqa: F401
    import torch  # what takes long; and not koch

    torch.set_num_threads(1)
    waiting, running = list(mutants), {}
    while waiting or running:
        while waiting and len(running) < 2:
            mutant, status = waiting.pop(0), 3
            child = os.fork()
            if not child:
                try:
                    status = try_one(mutant, f"{folder}/{mutant.mistake}.log")
                finally:
                    os._exit(status)
            running[child] = mutant, time.monotonic()
        child, status = os.wait()
        mutant, began = running.pop(child)
        yield mutant, os.waitstatus_to_exitcode(status), time.monotonic() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="words of the mistakes' sentences (default: all mistakes)")
    parser.add_argument("--sample", type=int, default=len(MUTANTS), help="how many are tried, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if all(word in mutant.mistake for word in options.words)]
    chosen = random.Random(options.seed).sample(chosen, min(options.sample, len(chosen)))
    rejected, folder = 0, tempfile.mkdtemp()
    for mutant, status, seconds in outcomes([CONTROL, *chosen], folder):
        if mutant == CONTROL and status != 0:
            sys.exit(f"the tests fail without a mistake: {folder}/{CONTROL.mistake}.log")
        rejected += status == 1
        if mutant != CONTROL and status != 1:
            print(f"NOT REJECTED (pytest's status {status}, {seconds:.0f} s): {mutant.mistake}", flush=True)
    print(f"{rejected} of {len(chosen)} planted mistakes were rejected; what pytest said: {folder}/")


if __name__ == "__main__":
    main()

"""How well does classify name pictures of your own? python tutorials/own_pictures.py [--queries 72] [--keep FOLDER]

Letters, digits and signs of the fonts that come with matplotlib: twelve classes of one picture each, half of them light
on dark; the queries are the same twelve in another font, of nine kinds. Then queries that show none of the twelve. All
go through koch.py's own command. Last, without any font: how often a drawing of Omniglot's validation alphabets is named
if its character is among the classes, and said to be none of them if it is not.
"""

import contextlib
import io
import itertools
import json
import math
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import koch
from tutorials.common import Parser, guarded

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
WITH_SIGNS = "DejaVuSans DejaVuSans-Bold DejaVuSans-Oblique DejaVuSansMono DejaVuSerif DejaVuSerif-Bold".split()
WITH_SIGNS += "DejaVuSerif-Italic STIXGeneral STIXGeneralBol".split()
ALL_FONTS = [*WITH_SIGNS, "STIXGeneralItalic", "cmr10", "cmss10", "cmtt10"]
SETS = {  # what is drawn, none of it alike in upper and lower case, and the fonts that have it
    "letters": ("ABDEFGHJKLMNQRTYbdefghkmnqrt", ALL_FONTS),
    "digits": ("0123456789+=", ALL_FONTS),
    "signs": ("&#%?@§€¥±÷¶∞∑∆√≠", WITH_SIGNS),
}
KINDS = ("clean", "sizes", "off centre", "turned", "light on dark", "rough paper", "side light", "JPEG", "all at once")

# Drawing --------------------------------------------------------------------------------------------------------------


def draw(rng, character, font, kind):
    """Draw a character as a picture of a kind: a grey Image. rng: numpy Generator"""
    side, share, place = 200, 0.7, [0.5, 0.5]
    if kind in ("sizes", "all at once"):
        side, share = int(rng.choice([64, 120, 240, 480])), rng.choice([0.35, 0.5, 0.7, 0.85])
    if kind in ("off centre", "all at once"):
        place = rng.uniform(0.02, 0.98, 2)
    glyph = draw_glyph(character, font, rng.uniform(-10, 10) if kind in ("turned", "all at once") else 0)
    scale = share * side / max(glyph.size)
    glyph = glyph.resize([max(1, round(length * scale)) for length in glyph.size], Image.Resampling.LANCZOS)
    page = Image.new("L", (side, side))
    page.paste(glyph, [round(where * (side - length)) for where, length in zip(place, glyph.size)])
    grey = 0.92 - np.asarray(page) / 255 * rng.uniform(0.55, 0.9)  # 0..1, 0.92 = paper
    if kind in ("rough paper", "all at once"):
        grey += grain(rng, side)
    if kind == "light on dark" or kind == "all at once" and rng.random() < 0.5:
        grey = 1 - grey
    if kind in ("side light", "all at once"):
        grey *= side_light(rng, side)
    picture = Image.fromarray(np.uint8(255 * grey.clip(0, 1)))
    return as_jpeg(rng, picture) if kind in ("JPEG", "all at once") else picture


def draw_glyph(character, font, degrees):
    """Return a large Image of a character alone, 255 = ink, turned by some degrees."""
    glyph = Image.new("L", (500, 500))
    ImageDraw.Draw(glyph).text((150, 100), character, 255, ImageFont.truetype(str(FONTS / f"{font}.ttf"), 200))
    glyph = glyph.rotate(degrees, Image.Resampling.BICUBIC)
    return glyph.crop(glyph.getbbox())


def grain(rng, side):
    """Return the grain of rough paper, fine and coarse: (side, side) float, to be added to a picture in 0..1."""
    coarse = Image.fromarray(rng.normal(0, 1, (side // 8, side // 8)).astype(np.float32))
    coarse = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
    return 0.04 * rng.normal(0, 1, (side, side)) + 0.04 * coarse


def side_light(rng, side):
    """Return light that falls from one side: (side, side) float in 0.4..1, a factor."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    angle = rng.uniform(0, 2 * math.pi)
    return 1 - rng.uniform(0.3, 0.6) * (0.5 + 0.4 * (math.cos(angle) * x + math.sin(angle) * y))


def as_jpeg(rng, picture):
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=int(rng.integers(15, 50)))
    return Image.open(content)


# Asking ---------------------------------------------------------------------------------------------------------------


def ask(folder, rng, kind, name, strangers):
    """Draw twelve classes and queries of a kind, ask koch.py; return {"right": [...], "named": [...]} of bool.

    folder: where the pictures go; name: of SETS; strangers: whether the queries show other characters than the twelve
    """
    characters, fonts = SETS[name]
    characters, fonts = list(rng.permutation(list(characters))), rng.choice(fonts, 2, replace=False)
    (folder / "support").mkdir(parents=True)
    for number, character in enumerate(characters[:12]):
        kind_of_class = "clean" if rng.random() < 0.5 else "light on dark"
        draw(rng, character, fonts[0], kind_of_class).save(folder / "support" / f"{number}.png")
    queries = []
    for number, character in enumerate(characters[12:24] if strangers else characters[:12]):
        queries.append(folder / f"query{number}.png")
        draw(rng, character, fonts[1], kind).save(queries[-1])
    printed, command = io.StringIO(), ["classify", "--json", "--checkpoint", str(koch.WEIGHTS)]
    command += ["--support", str(folder / "support"), "--picture", str(folder / "seen.png"), *map(str, queries)]
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        assert koch.main(command) == 0
    answers = json.loads(printed.getvalue())
    right = [not strangers and answer["answers"][0]["class"] == str(n) for n, answer in enumerate(answers)]
    return {"right": right, "named": [answer["same"] for answer in answers]}


def ask_all(folder, n_queries, seed):
    """Ask n_queries of each kind, and then strangers of each: {row of the table: [bool, ...]}."""
    rng, found = np.random.default_rng(seed), {}
    for kind in KINDS:
        for number in range(n_queries // 12):
            name = list(SETS)[number % 3]
            answers = ask(folder / kind / str(number), rng, kind, name, False)
            for row in (kind, name, "all of these"):
                found.setdefault(row, []).extend(answers["right"])
            found.setdefault("named", []).extend(answers["named"])
    strange = found["none of these"] = []
    for kind, name, number in itertools.product(KINDS, ("letters", "signs"), range(2)):  # there are only twelve digits
        answers = ask(folder / f"strangers {kind}" / f"{name}{number}", rng, kind, name, True)
        strange.extend(not named for named in answers["named"])
    return found


# The threshold --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def named_and_none(net, h, alphabet, n_way, n_shot, n_trials=2000):
    """Return the fraction of drawings that are named, rightly or not, and of strangers that are said to be none.

    h: (characters, drawers, D) features; alphabet: (characters,) int64. A trial's characters are of one alphabet.
    """
    rng, named = torch.Generator().manual_seed(0), []
    pools = [torch.where(alphabet == a)[0] for a in alphabet.unique()]
    pools = [pool for pool in pools if len(pool) > n_way]
    for i in range(n_trials):
        pool = pools[i % len(pools)]
        characters = pool[torch.randperm(len(pool), generator=rng)[: n_way + 1]]
        drawers = torch.randperm(h.shape[1], generator=rng)
        support, queries = h[characters[:n_way]][:, drawers[:n_shot]], h[characters[[0, -1]], drawers[-1]]
        p = net.logit(queries[:, None, None], support).mean(2).sigmoid()  # (2, n_way): one that belongs, a stranger
        named.append(p.amax(1) > (0.75 if n_way > 1 else 0.5))  # as classify has it
    known, strange = torch.stack(named).double().mean(0).tolist()
    return known, 1 - strange


def main():
    parser = Parser(prog="own_pictures.py", description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=72, help="of each kind (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="draws them (default: %(default)s)")
    parser.add_argument("--keep", type=Path, help="an empty folder to keep the pictures in")
    options = parser.parse_args()
    if options.queries < 12:
        parser.error("--queries is at least 12, one of each class")
    with tempfile.TemporaryDirectory() as temporary:
        found = ask_all(options.keep or Path(temporary), options.queries, options.seed)
    for row, values in found.items():
        print(f"{row:16}{100 * sum(values) / len(values):6.1f} % of {len(values)}")
    net, (_, validation, _) = koch.load_checkpoint(koch.WEIGHTS), koch.split(koch.load_data(koch.Config())[0])
    h = koch.image_features(net, validation.images.flatten(0, 1)).unflatten(0, validation.images.shape[:2])
    print("\nvalidation alphabets: ways, shots, named if they belong, said to be none if not")
    for n_way in (1, 2, 5, 12, 19):
        for n_shot in (1, 5):
            known, none = named_and_none(net, h, validation.alphabet, n_way, n_shot)
            print(f"{n_way:4}{n_shot:4}{100 * known:8.1f}{100 * none:8.1f}")


if __name__ == "__main__":
    sys.exit(guarded("own_pictures.py", main))

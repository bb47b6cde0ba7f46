"""Pictures of your own: folders of image files of any size, colour and format, as drawings."""

import hashlib
import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .files import SIDE, Drawings
from .terminal import UserError, reason

SUFFIXES = tuple(".png .jpg .jpeg .pgm .ppm .pbm .bmp .gif .tif .tiff .webp".split())
FORMATS = ("PNG", "JPEG", "PPM", "BMP", "GIF", "TIFF", "WEBP")  # what a file may hold, whatever its name says
MOST_PIXELS = 100_000_000  # a larger picture is a mistake, or made to fill the memory
NO_FILES_OF_YOURS = ("thumbs.db", "desktop.ini", "__macosx")  # what systems leave behind, beside names with a dot
# What Pillow raises at damaged files; the last four at some TIFFs alone.
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, TypeError, LookupError, OverflowError, MemoryError)


def printable(name):
    """Return a path or name as text that fits in a line and that every terminal can print."""
    return "".join(c if c.isprintable() else "?" for c in str(name))


def few(names):
    """List the first three of some names, and how many more there are."""
    return ", ".join(printable(name) for name in names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)


# One picture ----------------------------------------------------------------------------------------------------------


def border(values):
    """Return the outermost pixels of (H, W) values."""
    return np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])


def on_paper(grey, opacity, ink):
    """Lay a picture with transparent parts on white or black paper: (H, W) float32 in 0..255.

    grey: (H, W) in 0..255; opacity: (H, W) in 0..1; ink: "dark", "light" or "auto". A card with round corners brings
    its own paper. Strokes alone do not: light ones are laid on black paper, dark ones on white, and turned into the
    negative if that is not the ink that is asked for.
    """
    alone = np.median(border(opacity)) <= 0.5
    light = np.average(grey, weights=opacity + 1e-9) > 127 if alone else np.median(border(grey)) <= 127
    laid = grey * opacity + (0 if light else 255) * (1 - opacity)
    return 255 - laid if alone and ink == ("dark" if light else "light") else laid


def grey_picture(path, ink):
    """Decode a picture's first frame, the right way up, as a Pillow picture of mode "F": grey, larger is lighter."""
    with Image.open(path, formats=FORMATS) as picture:
        if picture.width * picture.height > MOST_PIXELS:
            raise Image.DecompressionBombError
        picture = ImageOps.exif_transpose(picture)
    if picture.mode[0] in "IF":  # 16 bits or floats, which convert("L") would clip to white
        grey = np.asarray(picture, np.float32) / (257 if picture.mode[0] == "I" else 1)  # 65535 is 255 * 257
        if "transparency" not in picture.info:
            return Image.fromarray(grey)
        opacity = (np.asarray(picture) != picture.info["transparency"]).astype(np.float32)
    else:
        picture = picture.convert("RGBA")  # from 1 bit, palette, CMYK, ...; exact where it is grey
        grey, alpha = picture.convert("L"), picture.getchannel("A")
        if alpha.getextrema()[0] == 255:
            return grey.convert("F")
        grey, opacity = np.asarray(grey), np.asarray(alpha, np.float32) / 255
    return Image.fromarray(on_paper(grey, opacity, ink))


def shrink(picture):
    """Resize a picture until its longer side is 105: (H, W) float32. Smaller by averaging areas, larger bilinearly."""
    longest = max(picture.size)
    size = [max(1, round(side * SIDE / longest)) for side in picture.size]  # where it is 105 already, nothing changes
    picture = picture.resize(size, Image.Resampling.BOX if longest > SIDE else Image.Resampling.BILINEAR)
    return np.asarray(picture, np.float32)


def stretch(values, ink):
    """Stretch (H, W) grey values, larger is lighter, to [0, 1]: paper is 0 and the strongest ink is 1.

    The strongest ink is the extreme, no percentile: a dot on a large paper has less ink than any percent of it, and a
    faint pencil is ink wherever nothing is darker. Averaging areas has taken the noise out of it before. Paper is the
    median of what is nearer to paper than to ink, so that neither a highlight nor the paper's grain moves it. Pixels
    that are 0 and 1 already stay exactly 0 and 1.
    """
    inked = -values if ink == "dark" else values
    paper = np.median(inked[inked <= (inked.min() + inked.max()) / 2])
    return np.clip((inked - paper) / (inked.max() - paper), 0, 1)


def read_picture(path, ink):
    """Read a picture: (105, 105) float32 in [0, 1], 1 = ink, and its ink: "dark" or "light".

    ink: "dark", "light" or "auto": the border is paper, so ink is dark if the border is nearer to the lightest pixel.
    Raises UserError when it cannot be read, has more than 100 million pixels or is all of one colour.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # large files and odd metadata: judged here or of no account
            picture = grey_picture(path, ink)
    except Image.DecompressionBombError as error:
        raise UserError(f"{printable(path)} is too large (more than 100 megapixels)") from error
    except DAMAGE as error:
        why = "no picture, or damaged" if isinstance(error, UnidentifiedImageError) else printable(reason(error))
        raise UserError(f"{printable(path)} cannot be read ({why})") from error
    values = shrink(picture)
    if not np.isfinite(values).all():
        raise UserError(f"{printable(path)} cannot be read (pixels that are no numbers)")
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-4 * max(abs(low), abs(high)):  # averages of one value may differ in the last digit
        raise UserError(f"{printable(path)} is all of one colour")
    if ink == "auto":
        ink = "dark" if np.median(border(values)) >= (low + high) / 2 else "light"
    inked, image = stretch(values, ink), np.zeros((SIDE, SIDE), np.float32)
    top, left = ((SIDE - side) // 2 for side in inked.shape)
    image[top : top + inked.shape[0], left : left + inked.shape[1]] = inked
    return image, ink


# Many pictures --------------------------------------------------------------------------------------------------------


def read_pictures(paths, ink):
    """Read pictures as read_picture does: a list of (image, ink). Raises one UserError for all that is wrong."""
    if ink not in ("auto", "dark", "light"):
        raise UserError(f"ink is one of auto, dark, light, not {printable(ink)}")
    pictures, problems = [], []
    for path in paths:
        try:
            pictures.append(read_picture(path, ink))
        except UserError as error:
            problems.append(error)
    if problems:
        raise UserError(f"{few(problems)}; replace or delete {'it' if len(problems) == 1 else 'them'}")
    return pictures


def load_pictures(paths, ink="auto"):
    """Load pictures in the order of their paths: (n, 105, 105) float32 in [0, 1], 1 = ink.

    ink: "dark", "light" or "auto": each picture for itself. Raises UserError as read_picture does.
    """
    return np.array([image for image, _ in read_pictures(paths, ink)], np.float32).reshape(-1, SIDE, SIDE)


def settle(folder, paths, ink):
    """Read a folder's pictures with one ink for all: the one given or, with "auto", that of most, "dark" if equal.

    Returns the images in the order of their paths, the ink, and a line that says so. Raises UserError.
    """
    read = read_pictures(paths, ink)
    votes = [vote for _, vote in read]
    chosen, other = ("dark", "light") if votes.count("dark") * 2 >= len(votes) else ("light", "dark")
    images = [image if vote == chosen else read_picture(path, chosen)[0] for path, (image, vote) in zip(paths, read)]
    against = [path.relative_to(folder) for path, vote in zip(paths, votes) if vote != chosen]
    agreed = f"{len(paths) - len(against)} of {len(paths)}" + (f" (not in {few(against)})" if against else "")
    why = f" in {agreed}, so it is taken as {chosen} (--ink {other} says otherwise)" if ink == "auto" else ", as given"
    return images, chosen, f"ink is {chosen}{why}"


def refuse_twins(images, paths):
    """Raise UserError if two files are the same picture once they are decoded."""
    first, twins = {}, []
    for image, path in zip(images, paths):
        original = first.setdefault(hashlib.sha256(image).digest(), path)
        twins += [f"{original} and {path}"] if original != path else []
    if twins:
        raise UserError(f"the same picture twice: {few(twins)}; delete one of the two")


# Folders --------------------------------------------------------------------------------------------------------------


def walk(folder, levels=8):
    """Yield a folder's files and empty folders in the names' order, never the disk's; hidden ones are left out."""
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{printable(folder)} cannot be read ({reason(error)}); name a folder of pictures") from error
    entries = [e for e in entries if e.name[0] != "." and e.name.lower() not in NO_FILES_OF_YOURS]
    for entry in entries:
        if levels > 1 and entry.is_dir():
            yield from walk(entry, levels - 1)
        else:
            yield entry
    if not entries:
        yield folder


def find_pictures(folder, depths, layout):
    """Find a folder's pictures in the names' order: {path: its parts below the folder}. Says what else lies there.

    depths: the numbers of parts that may occur together, one tuple for each way; layout: the same, in words
    Raises UserError when there is no picture, or one at another depth than the others.
    """
    below = {path: path.relative_to(folder).parts for path in walk(folder)}
    pictures = {path: parts for path, parts in below.items() if path.suffix.lower() in SUFFIXES}
    if others := ["/".join(parts) for path, parts in below.items() if path not in pictures and parts]:
        print(f"{printable(folder)}/: left out, no pictures: {few(others)}")
    if not pictures:
        raise UserError(f"{printable(folder)} holds no pictures ({' '.join(SUFFIXES)}); lay them out as {layout}")
    usual = max(depths, key=lambda allowed: sum(len(parts) in allowed for parts in pictures.values()))
    if astray := [path for path, parts in pictures.items() if len(parts) not in usual]:
        raise UserError(f"wrong depth: {few(astray)}; lay out all pictures as {layout}")
    return pictures


def as_drawings(folder, classes, ink):
    """Read the pictures of {(alphabet, class): paths}: Drawings and their ink. Raises UserError at a single class."""
    if len(classes) < 2:
        raise UserError(f"{printable(folder)} has only one class, {few([name for _, name in classes])}; it takes two")
    paths = sum(classes.values(), [])
    pictures, ink, says = settle(folder, paths, ink)
    refuse_twins(pictures, paths)
    print(f"{printable(folder)}/: {len(paths)} pictures of {len(classes)} classes; {says}")
    counts = np.array([len(files) for files in classes.values()], np.int64)
    images = np.zeros((len(counts), counts.max(), SIDE, SIDE), np.float32)
    images[np.arange(counts.max()) < counts[:, None]] = pictures
    names = sorted({alphabet for alphabet, _ in classes})
    alphabet = np.array([names.index(alphabet) for alphabet, _ in classes], np.int64)
    characters = tuple(printable(name) for _, name in classes)
    return Drawings(images, alphabet, tuple(printable(name) for name in names), counts, characters), ink


def load_folder(folder, ink="auto"):
    """Load a folder of pictures to learn from: Drawings, classes in the order of their names, and their ink.

    folder: FOLDER/CLASS/PICTURE, one alphabet with the folder's name, or FOLDER/ALPHABET/CLASS/PICTURE
    ink: "dark", "light" or "auto": as the borders of most pictures say; returned as "dark" or "light"
    The images are (classes, most, 105, 105) float32 in [0, 1], 1 = ink; beyond a class's counts they are zeros.
    Raises UserError at another layout, at fewer than two classes or two pictures of a class, at two files with the
    same picture, and as read_picture does.
    """
    folder = Path(folder)
    layout = "{0}/CLASS/PICTURE or, every one, {0}/ALPHABET/CLASS/PICTURE".format(printable(folder))
    classes = {}
    for path, parts in find_pictures(folder, [(2,), (3,)], layout).items():
        alphabet = parts[0] if len(parts) == 3 else folder.resolve().name
        classes.setdefault((alphabet, parts[-2]), []).append(path)
    if alone := [files[0].parent for files in classes.values() if len(files) == 1]:
        raise UserError(f"only one picture in {few(alone)}; a class takes two: add some, or delete the class")
    return as_drawings(folder, classes, ink)


def load_support(folder, ink="auto"):
    """Load a folder of pictures to choose among: Drawings of one alphabet, and their ink, as load_folder does.

    folder: FOLDER/CLASS.png, a class's only picture, and FOLDER/CLASS/PICTURE, one or several
    Raises UserError as load_folder does, and when a class comes twice.
    """
    folder = Path(folder)
    layout = "{0}/CLASS.png or {0}/CLASS/PICTURE".format(printable(folder))
    classes, first = {}, {}
    for path, parts in find_pictures(folder, [(1, 2)], layout).items():
        name = path.stem if len(parts) == 1 else parts[0]
        if first.setdefault(name, parts[0]) != parts[0]:
            twice = few([folder / first[name], folder / parts[0]])
            raise UserError(f"the class {printable(name)} comes twice: {twice}; rename one")
        classes.setdefault((folder.resolve().name, name), []).append(path)
    return as_drawings(folder, dict(sorted(classes.items())), ink)

"""The world of the bundled tiny models: pictures, captions, edits, and the oracle.

Everything is defined by ../world.json and a seed.  A scene is a tuple of five
names (colour, shape, size, position, background).

Picture.  The background is a vertical gradient: row y has the colour
top + (bottom - top) * y / 63.  The object is drawn over it with coverage
clip(0.5 - d, 0, 1), where d is the signed distance (in pixels) of the pixel's
centre (x + 0.5, y + 0.5) to the shape (see `distance`), its centre being
(32, 32) + offset of the position, plus a small jitter.
"""
import json
import os

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
WORLD = json.load(open(os.path.join(HERE, "..", "world.json")))
N = WORLD["image_size"]
SHAPES = list(WORLD["shapes"])
COLOURS = list(WORLD["colours"])
SIZES = list(WORLD["sizes"])
POSITIONS = list(WORLD["positions"])
BACKGROUNDS = list(WORLD["backgrounds"])
KINDS = ("colour", "shape", "size", "position", "background")
TABLES = {"colour": "colours", "shape": "shapes", "size": "sizes",
          "position": "positions", "background": "backgrounds"}
VALUES = {k: list(WORLD[TABLES[k]]) for k in KINDS}


def distance(shape, u, v):
    """Signed distance (negative inside) in units of the radius; u right, v down."""
    if shape == "circle":
        return np.sqrt(u * u + v * v) - 0.95
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) - 0.84
    if shape == "triangle":  # corners (0,-1), (-1,0.8), (1,0.8)
        k = np.sqrt(1.0 + 1.8 * 1.8)
        return np.maximum((1.8 * np.abs(u) - (v + 1.0)) / k, v - 0.8)
    if shape == "cross":
        a, b = np.abs(u), np.abs(v)
        return np.minimum(np.maximum(a - 0.34, b - 1.0), np.maximum(a - 1.0, b - 0.34))
    if shape == "heart":  # two discs and the convex piece below them
        a = np.abs(u)
        disc = np.sqrt((a - 0.45) ** 2 + (v + 0.35) ** 2) - 0.5
        low = np.maximum(np.maximum(0.761 * a + 0.648 * (v - 0.95),
                                    0.649 * (a - 0.45) - 0.761 * (v + 0.35)), -(v + 0.35))
        return np.minimum(disc, low)
    raise ValueError(shape)


def render(scene, rng=None):
    """uint8 [64, 64, 3] picture of a scene; without rng there is no jitter."""
    colour, shape, size, position, background = scene
    j = WORLD["jitter"]
    dx, dy, dr = (0, 0, 0) if rng is None else rng.uniform(-1, 1, 3)
    radius = WORLD["sizes"][size]["radius"] * (1 + j["radius"] * dr)
    ox, oy = WORLD["positions"][position]["offset"]
    cx, cy = N / 2 + ox + j["offset"] * dx, N / 2 + oy + j["offset"] * dy
    p = np.arange(N) + 0.5
    u, v = (p[None, :] - cx) / radius, (p[:, None] - cy) / radius
    u, v = np.broadcast_arrays(u, v)
    cover = np.clip(0.5 - distance(shape, u, v) * radius, 0, 1)[..., None]
    bg = WORLD["backgrounds"][background]
    top, bottom = np.array(bg["top"], float), np.array(bg["bottom"], float)
    ramp = top + (bottom - top) * (np.arange(N)[:, None, None] / (N - 1))
    rgb = np.array(WORLD["colours"][colour]["rgb"], float)
    return np.round(ramp * (1 - cover) + rgb * cover).astype(np.uint8)


def random_scene(rng):
    return tuple(VALUES[k][rng.integers(len(VALUES[k]))] for k in KINDS)


def batch(n, seed):
    """n scenes and their pictures, uint8 [n, 64, 64, 3]."""
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng) for _ in range(n)]
    return scenes, np.stack([render(s, rng) for s in scenes])


# --- captions and edits -------------------------------------------------------

OPENINGS = ["", "", "", "a picture of ", "a photo of ", "a drawing of ", "an image of ", "a painting of ",
            "there is ", "here is ", "we see ", "this is "]
INSTRUCTIONS = {
    "colour": ["make it {new}", "make the {shape} {new}", "turn the {shape} {new}", "paint it {new}",
               "change the colour to {new}", "paint the {shape} {new}", "it should be {new}", "have the {shape} be {new}"],
    "shape": ["make it a {new}", "turn it into a {new}", "replace the {shape} with a {new}", "turn the {shape} into a {new}",
              "change the shape to a {new}", "swap the {shape} for a {new}"],
    "size": ["make it {new}", "make the {shape} {new}", "change the size to {new}", "it should be {new}",
             "have the {shape} be {new}"],
    "background": ["put it {new}", "put the {shape} {new}", "place it {new}", "it should be {new}", "have it be {new}",
                   "show the {shape} {new}"],
}
EDIT_WEIGHTS = {"colour": 0.35, "background": 0.30, "shape": 0.20, "size": 0.15}
WORDS = {k: {v: WORLD[TABLES[k]][v]["words"] for v in VALUES[k]} for k in KINDS}


def pick(rng, items):
    return items[int(rng.integers(len(items)))]


def compose(form, words):
    """The caption of `words` (kind -> phrase or None) in the wording `form` = (opening, order)."""
    opening, order = form
    thing = "a " + " ".join(w for w in (words["size"], words["colour"], words["shape"]) if w)
    pos, bg = words["position"], words["background"]
    if order == 2 and bg:     # in the snow, a red circle on the left
        return f"{bg}, {opening}{thing}" + (f" {pos}" if pos else "")
    if order == 3 and pos:    # on the left, a red circle in the snow
        return f"{pos}, {opening}{thing}" + (f" {bg}" if bg else "")
    tail = [w for w in ((bg, pos) if order == 1 else (pos, bg)) if w]
    return " ".join([opening + thing] + tail)


def random_words(rng, scene, unsaid=(0.5, 0.55, 0.15)):
    """A phrase for each kind; size, position and background are sometimes left unsaid."""
    words = {k: pick(rng, WORDS[k][v]) for k, v in zip(KINDS, scene)}
    for k, p in zip(("size", "position", "background"), unsaid):
        if rng.random() < p:
            words[k] = None
    return words


def random_form(rng):
    return pick(rng, OPENINGS), int(pick(rng, [0, 0, 0, 1, 2, 3]))


def random_caption(rng, scene):
    return compose(random_form(rng), random_words(rng, scene))


def random_edit(rng, scene, form, words, kind=None):
    """(kind, instruction, edited caption, edited scene): the caption with exactly one change."""
    if kind is None:
        kind = list(EDIT_WEIGHTS)[int(rng.choice(4, p=list(EDIT_WEIGHTS.values())))]
    i = KINDS.index(kind)
    value = pick(rng, [v for v in VALUES[kind] if v != scene[i]])
    new = pick(rng, WORDS[kind][value])
    text = pick(rng, INSTRUCTIONS[kind]).format(new=new, shape=words["shape"])
    after = compose(form, {**words, kind: new})
    return kind, text, after, scene[:i] + (value,) + scene[i + 1:]


def held_out(caption):
    """Captions that the language model never sees in training (a tenth of them)."""
    import zlib
    return zlib.crc32(caption.encode()) % 10 == 0


PHRASES = sorted(((w, k, v) for k in KINDS for v in VALUES[k] for w in WORDS[k][v]),
                 key=lambda t: -len(t[0]))


def parse(text):
    """kind -> value read from a text, longest phrases first; None when a kind has two values."""
    text, found = " " + text.lower().replace(",", " ,").replace(".", " ").replace("?", " ") + " ", {}
    for w, k, v in PHRASES:
        if f" {w} " in text:
            if found.get(k, v) != v:
                return None
            found[k] = v
            text = text.replace(f" {w} ", " _ ")
    return found


def without(text, kind):
    """The text with the phrases of one kind taken out (to see that nothing else changed)."""
    text = " " + text.lower().replace(",", " ,") + " "
    for w, k, _ in PHRASES:
        if k == kind:
            text = text.replace(f" {w} ", " ")
    return " ".join(w for w in text.split() if w != ",")


def edit_kind(caption, instruction, edited):
    """The kind of a correct edit, else None.

    Correct: both captions parse, they differ in exactly one kind, the instruction
    names that kind's new value, and without the phrases of that kind the two
    captions are the same text."""
    a, b = parse(caption), parse(edited)
    if not a or not b:
        return None
    changed = [k for k in KINDS if a.get(k) != b.get(k)]
    if len(changed) != 1 or changed[0] not in b:
        return None
    k = changed[0]
    said = [v for w, kk, v in PHRASES if kk == k and f" {w} " in f" {instruction.lower().strip('.!?')} "]
    if b[k] not in said or without(caption, k) != without(edited, k):
        return None
    return k


# --- the oracle: reads a scene from pixels, no network ------------------------

def inside(shape, w, h):
    """bool [h, w]: the shape filled into a bounding box of w x h pixels."""
    x0, y0, x1, y1 = WORLD["shapes"][shape]["bbox"]
    u = x0 + (x1 - x0) * (np.arange(w) + 0.5) / w
    v = y0 + (y1 - y0) * (np.arange(h) + 0.5) / h
    return distance(shape, *np.broadcast_arrays(u[None, :], v[:, None])) < 0


UNIT_AREA = {s: float(inside(s, 400, 400).mean()
                      * (WORLD["shapes"][s]["bbox"][2] - WORLD["shapes"][s]["bbox"][0])
                      * (WORLD["shapes"][s]["bbox"][3] - WORLD["shapes"][s]["bbox"][1])) for s in SHAPES}


def components(mask):
    """4-connected components of a mask as lists of flat indices, largest first."""
    h, w = mask.shape
    seen, out = ~mask.ravel(), []
    seen = seen.tolist()
    for start in range(h * w):
        if seen[start]:
            continue
        seen[start], stack, part = True, [start], []
        while stack:
            p = stack.pop()
            part.append(p)
            y, x = divmod(p, w)
            for q, ok in ((p - w, y > 0), (p + w, y < h - 1), (p - 1, x > 0), (p + 1, x < w - 1)):
                if ok and not seen[q]:
                    seen[q] = True
                    stack.append(q)
        out.append(part)
    return sorted(out, key=len, reverse=True)


def read(picture):
    """What is seen in a uint8 [64, 64, 3] picture: (scene, mask).

    A field of the scene is None where nothing fits.  The rules, constants in world.json:
    1. top and bottom: median colour (each channel by itself) of the first two and of the last two rows;
       the background at row y is the straight line between them.  Its name: the background with the
       least mean distance of (top, bottom); None beyond background_max.
    2. d = RGB distance of each pixel to the background at its row; peak = mean of the 60 largest d.
       No object if peak < peak_min.
    3. Mask: d > peak / 2, then its largest 4-connected component.  No object if that has fewer than
       area_min pixels, or if the second largest has more than a quarter as many.
    4. Colour: median (each channel) of the mask's pixels with d > 0.8 peak; nearest palette colour,
       None beyond colour_max.
    5. Shape: each shape's template is filled into the mask's bounding box; greatest intersection over
       union; None below shape_min, or if the box's sides differ by more than the factor aspect_max.
    6. Size: radius = sqrt(mask area / area of the shape of radius 1); big above size_cut.
    7. Position: the shape's centre, from the bounding box and the radius, relative to (32, 32);
       nearest of the offsets; None beyond position_max pixels.
    """
    o = WORLD["oracle"]
    p = picture.astype(np.float64)
    top = np.median(p[:2].reshape(-1, 3), 0)
    bottom = np.median(p[-2:].reshape(-1, 3), 0)
    dist = {b: (np.linalg.norm(top - w["top"]) + np.linalg.norm(bottom - w["bottom"])) / 2
            for b, w in WORLD["backgrounds"].items()}
    background = min(dist, key=dist.get)
    if dist[background] > o["background_max"]:
        background = None
    ramp = top + (bottom - top) * (np.arange(N)[:, None, None] / (N - 1))
    d = np.linalg.norm(p - ramp, axis=-1)
    peak = np.sort(d.ravel())[-60:].mean()
    none = (None, None, None, None, background), np.zeros((N, N), bool)
    if peak < o["peak_min"]:
        return none
    parts = components(d > peak / 2)
    if len(parts[0]) < o["area_min"] or (len(parts) > 1 and 4 * len(parts[1]) > len(parts[0])):
        return none
    mask = np.zeros(N * N, bool)
    mask[parts[0]] = True
    mask = mask.reshape(N, N)
    core = mask & (d > 0.8 * peak)
    rgb = np.median(p[core], 0)
    dist = {c: np.linalg.norm(rgb - w["rgb"]) for c, w in WORLD["colours"].items()}
    colour = min(dist, key=dist.get)
    if dist[colour] > o["colour_max"]:
        colour = None
    ys, xs = np.nonzero(mask)
    x0, x1, y0, y1 = xs.min(), xs.max() + 1, ys.min(), ys.max() + 1
    w, h = x1 - x0, y1 - y0
    box = mask[y0:y1, x0:x1]
    iou = {}
    for s in SHAPES:
        t = inside(s, w, h)
        iou[s] = (t & box).sum() / (t | box).sum()
    shape = max(iou, key=iou.get)
    radius = float(np.sqrt(mask.sum() / UNIT_AREA[shape]))
    bx0, by0, bx1, by1 = WORLD["shapes"][shape]["bbox"]
    cx = (x0 + x1) / 2 - N / 2 - radius * (bx0 + bx1) / 2
    cy = (y0 + y1) / 2 - N / 2 - radius * (by0 + by1) / 2
    dist = {q: np.hypot(cx - v["offset"][0], cy - v["offset"][1]) for q, v in WORLD["positions"].items()}
    position = min(dist, key=dist.get)
    if dist[position] > o["position_max"]:
        position = None
    if iou[shape] < o["shape_min"] or max(w, h) > o["aspect_max"] * min(w, h):
        shape = None
    size = "big" if radius > o["size_cut"] else "small"
    return (colour, shape, size, position, background), mask


def matches(scene, caption):
    """Does a scene as read agree with everything that the caption says?"""
    said = parse(caption)
    return all(scene[KINDS.index(k)] == v for k, v in said.items())


def correct_edit(scene0, scene1, caption0, caption1):
    """Both pictures match their captions, and what the edit does not name is the same in both."""
    a, b = parse(caption0), parse(caption1)
    changed = {k for k in KINDS if a.get(k) != b.get(k)}
    return matches(scene0, caption0) and matches(scene1, caption1) and all(
        x is not None and x == y for k, x, y in zip(KINDS, scene0, scene1) if k not in changed)

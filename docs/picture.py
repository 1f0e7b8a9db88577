"""Draws docs/quickstart.png from a dataset in the original layout: python docs/picture.py DATASET/original docs/quickstart.png

Shows the pairs of the largest direction similarity, one of each instruction. Needs Pillow.
"""

import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

COLUMNS, ROWS, SIDE, GAP, TEXT = 4, 3, 128, 12, 26


def best_pairs(root):
    """((before, after), instruction) of one pair a triplet, the strongest changes first, no instruction twice."""
    found = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        edit = json.loads((folder / "prompt.json").read_text())["edit"]
        pairs = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
        best = max(pairs, key=lambda pair: pair["clip_sim_dir"])
        images = [folder / f"{best['seed']}_{i}.jpg" for i in (0, 1)]
        if edit not in found or best["clip_sim_dir"] > found[edit][0]:
            found[edit] = (best["clip_sim_dir"], images)
    ranked = sorted(found.items(), key=lambda item: -item[1][0])
    return [(images, edit) for edit, (_, images) in ranked[: COLUMNS * ROWS]]


def main(root, target):
    width = COLUMNS * (2 * SIDE + 2) + (COLUMNS + 1) * GAP
    height = ROWS * (SIDE + TEXT) + (ROWS + 1) * GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)
    for n, (images, edit) in enumerate(best_pairs(Path(root))):
        x = GAP + n % COLUMNS * (2 * SIDE + 2 + GAP)
        y = GAP + n // COLUMNS * (SIDE + TEXT + GAP)
        for i, file in enumerate(images):
            sheet.paste(Image.open(file).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC), (x + i * (SIDE + 2), y))
        draw.text((x, y + SIDE + 4), edit if len(edit) < 36 else edit[:34] + "…", fill="#222222", font=font)
    sheet.save(target, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

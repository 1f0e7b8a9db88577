"""Pairs that the UNet drew, for clip.py --drawn.  python drawn.py --out FILE --pairs 800 [--unet DIR/unet.pt]

They are drawn as the pipeline draws them, with the range of p2p thresholds widened to no sharing at all, and
labelled by what the oracle reads from them, not by what their captions say.
"""
import argparse
import os

import numpy as np
import torch

import clip as clipmod
import evaluate
import world


def labelled(drawer, n, steps, guidance, seed):
    """Columns of n pairs: pictures, captions, attributes seen and said (-1: none), kind of the edit, whether it is right."""
    rng = np.random.default_rng(seed)
    out = dict(pix=[], caps=[], have=[], marks=[], kinds=[], right=[])
    for _ in range(n):
        s = world.random_scene(rng)
        f, w = world.random_form(rng), world.random_words(rng, s)
        kind, _, after, s2 = world.random_edit(rng, s, f, w)
        out["kinds"].append(world.KINDS.index(kind))
        out["marks"].append([clipmod.said(w, s), clipmod.said({**w, kind: "x"}, s2)])
        out["caps"].append((world.compose(f, w), after))
    caps = out["caps"]
    out["pix"] = drawer.draw([c[0] for c in caps], [c[1] for c in caps], rng.uniform(0, 0.9, n).tolist(),
                             rng.uniform(*guidance, n).tolist(), steps, seed)
    for pair, (before, after) in zip(out["pix"], caps):
        seen = [world.read(p)[0] for p in pair]
        out["have"].append([[-1 if v is None else world.VALUES[k].index(v) for k, v in zip(world.KINDS, s)] for s in seen])
        out["right"].append(world.correct_edit(*seen, before, after))
    return {k: v if k == "caps" else np.array(v) for k, v in out.items()}


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--models", default=os.path.join(world.HERE, ".."))
    a.add_argument("--unet", help="a checkpoint of unet.py or share.py")
    a.add_argument("--out", required=True)
    a.add_argument("--pairs", type=int, default=800)
    a.add_argument("--steps", type=int, default=20)
    a.add_argument("--guidance", type=float, nargs=2, default=[2.0, 5.0])
    a.add_argument("--seed", type=int, default=9)
    a.add_argument("--threads", type=int, default=1)
    a = a.parse_args()
    torch.set_num_threads(a.threads)
    drawer = evaluate.with_checkpoint(a.models, a.unet) if a.unet else evaluate.from_folder(a.models)
    parts = []
    for start in range(0, a.pairs, 40):
        parts.append(labelled(drawer, min(40, a.pairs - start), a.steps, a.guidance, a.seed + start))
        done = {k: sum((p[k] for p in parts), []) if k == "caps" else np.concatenate([p[k] for p in parts]) for k in parts[0]}
        torch.save(done, a.out)
        print(len(done["caps"]), "right", round(float(done["right"].mean()), 3), flush=True)


if __name__ == "__main__":
    main()

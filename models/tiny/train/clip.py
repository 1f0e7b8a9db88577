"""Train the CLIP.  python clip.py --out DIR --steps 3000 [--start FOLDER] [--drawn FILE ...]

Each batch holds pairs: a scene and the same scene with one thing changed, captions
in the same wording.  A caption counts as right for every picture that it describes
(what it leaves unsaid may be anything), and the change of the picture has to point
in the direction of the change of the caption.  In some pairs something strays that
the edit does not name; their changes have to point elsewhere.  With --drawn half of
the pairs are those that the UNet drew (drawn.py), labelled by what the oracle reads.
"""
import os

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel

import cliptok
import loop
import world

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
SHORT = 32  # captions have at most 20 tokens; what stands after the end cannot matter


def build(vocab):
    return CLIPModel(CLIPConfig(
        text_config=dict(vocab_size=vocab, hidden_size=96, intermediate_size=384, num_hidden_layers=2,
                         num_attention_heads=4, max_position_embeddings=77, hidden_act="quick_gelu",
                         layer_norm_eps=1e-5, projection_dim=64, bos_token_id=vocab - 2, eos_token_id=vocab - 1,
                         pad_token_id=vocab - 1),
        vision_config=dict(hidden_size=96, intermediate_size=384, num_hidden_layers=3, num_attention_heads=4,
                           image_size=64, patch_size=8, hidden_act="quick_gelu", layer_norm_eps=1e-5,
                           projection_dim=64),
        projection_dim=64, logit_scale_init_value=2.6592))


def prepare(u8):
    """uint8 NHWC or float [0,1] NCHW to what the image tower takes."""
    x = torch.as_tensor(u8)
    if x.dtype == torch.uint8:
        x = x.permute(0, 3, 1, 2).float() / 255
    return (x - MEAN) / STD


def attributes(scene):
    return [world.VALUES[k].index(v) for k, v in zip(world.KINDS, scene)]


def said(words, scene):
    return [i if words[k] else -1 for k, i in zip(world.KINDS, attributes(scene))]


STRAY = {"position": 0.5, "size": 0.25, "background": 0.1, "colour": 0.1, "shape": 0.05}


def astray(rng, scene, kind):
    """The scene with one thing changed that the edit does not name."""
    kinds = [k for k in STRAY if k != kind]
    p = np.array([STRAY[k] for k in kinds])
    i = world.KINDS.index(kinds[int(rng.choice(len(kinds), p=p / p.sum()))])
    value = world.pick(rng, [v for v in world.VALUES[world.KINDS[i]] if v != scene[i]])
    return scene[:i] + (value,) + scene[i + 1:]


def pairs(rng, n):
    """n pairs: scenes, captions, attribute rows of captions, kind of the change, pictures, and which pairs are right edits."""
    scenes, caps, marks, kinds, pix, right = [], [], [], [], [], []
    for _ in range(n):
        s = world.random_scene(rng)
        f, w = world.random_form(rng), world.random_words(rng, s)
        kind, _, after, edited = world.random_edit(rng, s, f, w)
        s2 = edited
        w2 = {**w, kind: "x"}
        seed = rng.integers(1 << 62)
        right.append(rng.random() < 0.6)
        if not right[-1]:
            s2 = astray(rng, s2, kind)
        scenes += [s, s2]
        caps += [world.compose(f, w), after]
        marks += [said(w, s), said(w2, edited)]
        kinds.append(world.KINDS.index(kind))
        pix += [world.render(s, np.random.default_rng(seed)),
                world.render(s2, np.random.default_rng(seed if rng.random() < 0.7 else seed + 1))]
    return scenes, caps, np.array(marks), np.array(kinds), np.stack(pix), np.array(right)


def losses(model, x, ids, have, marks, kinds, good):
    """have: attributes of the pictures (-1: none of them), marks: attributes of the captions (-1: unsaid), good: right edits."""
    img = F.normalize(model.get_image_features(pixel_values=x).float(), dim=-1)
    txt = F.normalize(model.get_text_features(input_ids=ids).float(), dim=-1)
    right = ((have[:, None] == marks[None]) | (marks[None] < 0)).all(-1).float()
    logits = img @ txt.T * model.logit_scale.exp().clamp(max=50)
    a = right / right.sum(1, keepdim=True).clamp(min=1)
    b = (right / right.sum(0, keepdim=True).clamp(min=1)).T
    nce = -(a * logits.log_softmax(1)).sum(1).mean() - (b * logits.T.log_softmax(1)).sum(1).mean()
    # an absolute level too: right pairs near 0.8, wrong ones under 0.4
    cos = img @ txt.T
    level = (right * F.relu(0.8 - cos) ** 2).sum() / right.sum().clamp(min=1) \
        + ((1 - right) * F.relu(cos - 0.4) ** 2).sum() / (1 - right).sum()
    di = F.normalize(img[1::2] - img[0::2], dim=-1)
    dt = F.normalize(txt[1::2] - txt[0::2], dim=-1)
    cd = di @ dt.T
    own = torch.diagonal(cd)
    direction = (good * (1 - own)).sum() / good.sum().clamp(min=1)
    direction = direction + 2 * ((1 - good) * F.relu(own - 0.3) ** 2).sum() / (1 - good).sum().clamp(min=1)
    other = (kinds[:, None] != kinds[None]).float() * good[:, None]
    direction = direction + (other * F.relu(cd) ** 2).sum() / other.sum().clamp(min=1)
    return nce, level, direction, own, right, cos


def pooled(files):
    """The columns of all files of drawn.py in one, or None without files."""
    parts = [torch.load(f, weights_only=False) for f in files]
    return {k: sum((p[k] for p in parts), []) if k == "caps" else np.concatenate([p[k] for p in parts])
            for k in parts[0]} if parts else None


def blurred(rng, pix):
    """Rendered pictures as drawn ones look: half of the batches at half the resolution, all a little noisy."""
    x = torch.from_numpy(pix).permute(0, 3, 1, 2).float() / 255
    if rng.random() < 0.5:
        x = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
    return (x + 0.02 * torch.randn(len(x), 3, 1, 1) + 0.02 * torch.randn_like(x)).clamp(0, 1)


def put_drawn(rng, drawn, n, x, caps, have, marks, kinds, good):
    """Drawn pairs in the place of the first n."""
    j = rng.integers(len(drawn["kinds"]), size=n)
    x[:2 * n] = torch.from_numpy(drawn["pix"][j]).flatten(0, 1).permute(0, 3, 1, 2).float() / 255
    have[:2 * n] = drawn["have"][j].reshape(2 * n, 5)
    marks[:2 * n] = drawn["marks"][j].reshape(2 * n, 5)
    kinds[:n] = drawn["kinds"][j]
    good[:n] = drawn["right"][j]
    caps[:2 * n] = [c for i in j for c in drawn["caps"][i]]


def agreeing(a, model, tok, drawn, rng):
    """The loss of one batch after the other: how well pictures and captions, and their changes, find each other."""
    def draw_loss():
        scenes, caps, marks, kinds, pix, good = pairs(rng, a.pairs)
        have = np.array([attributes(s) for s in scenes])
        x = blurred(rng, pix)
        if drawn is not None:
            put_drawn(rng, drawn, a.pairs // 2, x, caps, have, marks, kinds, good)
        good = torch.from_numpy(good).float()
        nce, level, direction, own, right, cos = losses(
            model, (x - MEAN) / STD, torch.from_numpy(tok(caps, SHORT)), torch.from_numpy(have), torch.from_numpy(marks),
            torch.from_numpy(kinds), good)
        best = right[torch.arange(len(x)), cos.argmax(1)].mean()
        mean = lambda rows: (own * rows).sum() / rows.sum().clamp(min=1)
        return nce + 4 * level + direction, dict(
            nce=nce, level=level, direction=direction, top1=best, right=mean(good), wrong=mean(1 - good))
    return draw_loss


def main():
    p = loop.options(steps=3000, lr=1e-3)
    p.add_argument("--start", help="go on from a folder's weights instead of random ones")
    p.add_argument("--drawn", nargs="*", default=[])
    p.add_argument("--pairs", type=int, default=40)
    a = loop.begin(p)
    torch.manual_seed(6)
    tok = cliptok.Words()
    model = CLIPModel.from_pretrained(a.start, torch_dtype=torch.float32).train() if a.start else build(tok.size)
    print(sum(p.numel() for p in model.parameters()), "parameters", flush=True)
    opt = torch.optim.AdamW(model.parameters(), lr=a.lr, betas=(0.9, 0.98), weight_decay=0.02)
    run = loop.Run(os.path.join(a.out, "clip.pt"), dict(model=model), opt, averaged=model)
    rng = run.seed(3000, 3000)
    run.train(agreeing(a, model, tok, pooled(a.drawn), rng), a.steps, a.lr, warm=200, save_every=250)


if __name__ == "__main__":
    main()

"""Measure the exported models.  python evaluate.py --models DIR [--pairs 200] [--steps 20] [--guidance 2 5]

Draws pairs exactly as the pipeline does (Euler ancestral on the SD 1.x schedule,
classifier-free guidance, Prompt-to-Prompt by sharing self-attention logits), reads
them with the oracle of world.py and prints the table of the model card as JSON.
"""
import argparse
import json
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F

import cliptok
import world


def sigmas_and_times(steps):
    betas = torch.linspace(0.00085 ** 0.5, 0.012 ** 0.5, 1000, dtype=torch.float64) ** 2
    ac = torch.cumprod(1 - betas, 0).float()
    logs = ((1 - ac) / ac).sqrt().log()
    t = torch.linspace(999, 0, steps)
    lo = t.floor().long()
    hi = (lo + 1).clamp(max=999)
    w = t - lo
    s = ((1 - w) * logs[lo] + w * logs[hi]).exp()
    return torch.cat([s, s.new_zeros(1)]).tolist(), t.tolist()


class SharedAttention:
    """diffusers attention processor.  Rows come as [uncond0, uncond1, cond0, cond1] x candidates;
    where `on`, the queries and keys of the second picture's self-attention are the first's."""
    on = None  # bool [candidates] or None

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **kw):
        ctx = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(ctx), attn.to_v(ctx)
        if encoder_hidden_states is None and self.on is not None and bool(self.on.any()):
            m = self.on[:, None, None]

            def share(x):
                r = x.reshape(4, -1, *x.shape[1:])
                return torch.stack([r[0], torch.where(m, r[0], r[1]), r[2], torch.where(m, r[2], r[3])]).flatten(0, 1)
            q, k = share(q), share(k)
        b, n, c = q.shape
        split = lambda x: x.reshape(b, -1, attn.heads, c // attn.heads).transpose(1, 2)
        y = F.scaled_dot_product_attention(split(q), split(k), split(v)).transpose(1, 2).reshape(b, n, c)
        return attn.to_out[0](y)


class Models:
    def __init__(self, unet, text, vae, scale):
        self.unet, self.text, self.vae, self.scale = unet.eval(), text.eval(), vae.eval(), scale
        self.tok = cliptok.Words()
        self.share = SharedAttention()
        unet.set_attn_processor(self.share)

    @torch.no_grad()
    def encode(self, texts):
        return self.text(torch.from_numpy(self.tok(texts))).last_hidden_state

    @torch.no_grad()
    def draw(self, captions0, captions1, p2p, guidance, steps, seed):
        """uint8 [n, 2, 64, 64, 3]; p2p and guidance are lists of one number per pair."""
        n = len(captions0)
        g = torch.Generator().manual_seed(seed)
        empty = self.encode([""]).expand(n, -1, -1)
        ctx = torch.cat([empty, empty, self.encode(captions0), self.encode(captions1)])
        p2p, cfg = torch.tensor(p2p), torch.tensor(guidance)[None, :, None, None, None]
        sig, times = sigmas_and_times(steps)
        x = torch.randn(1, n, 4, 8, 8, generator=g).expand(2, -1, -1, -1, -1) * sig[0]
        for i in range(steps):
            s, to = sig[i], sig[i + 1]
            self.share.on = p2p > i / (steps - 1)
            inp = (x / math.sqrt(s * s + 1)).flatten(0, 1).repeat(2, 1, 1, 1)
            e = self.unet(inp, torch.full((4 * n,), times[i]), ctx).sample.reshape(2, 2, n, 4, 8, 8)
            den = x - s * (e[0] + cfg * (e[1] - e[0]))
            up = min(to, math.sqrt(to * to * (s * s - to * to) / (s * s))) if to > 0 else 0.0
            down = math.sqrt(to * to - up * up)
            x = x + (x - den) / s * (down - s)
            if to > 0:
                x = x + up * torch.randn(1, n, 4, 8, 8, generator=g)
        y = self.vae.decode(x.flatten(0, 1) / self.scale).sample
        u8 = ((y / 2 + 0.5).clamp(0, 1) * 255).byte().permute(0, 2, 3, 1)
        return u8.reshape(2, n, 64, 64, 3).transpose(0, 1).contiguous().numpy()


def from_folder(folder):
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel
    d = os.path.join(folder, "diffusion")
    vae = AutoencoderKL.from_pretrained(os.path.join(d, "vae"), torch_dtype=torch.float32)
    return Models(UNet2DConditionModel.from_pretrained(os.path.join(d, "unet"), torch_dtype=torch.float32),
                  CLIPTextModel.from_pretrained(os.path.join(d, "text_encoder"), torch_dtype=torch.float32),
                  vae, vae.config.scaling_factor)


def with_checkpoint(folder, unet_pt):
    """The models of a folder with a UNet and text encoder that are still being trained."""
    m = from_folder(folder)
    torch.nn.ModuleDict(dict(unet=m.unet, text=m.text)).load_state_dict(torch.load(unet_pt, weights_only=False)["ema"])
    return m


def edits(n, seed, kinds=None):
    """n random (kind, caption, edited caption) of unseen captions."""
    rng = np.random.default_rng(seed)
    out = []
    while len(out) < n:
        s = world.random_scene(rng)
        f, w = world.random_form(rng), world.random_words(rng, s)
        k = None if kinds is None else kinds[len(out) % len(kinds)]
        kind, text, after, _ = world.random_edit(rng, s, f, w, k)
        out.append((kind, world.compose(f, w), after, text))
    return out


def similarities(clip, tok, pix, caps0, caps1):
    """(image0-text0, image1-text1, image0-image1, direction) of uint8 [n, 2, 64, 64, 3]."""
    import clip as clipmod
    with torch.no_grad():
        x = clipmod.prepare(pix.reshape(-1, 64, 64, 3))
        img = F.normalize(clip.get_image_features(pixel_values=x), dim=-1).reshape(-1, 2, 64)
        t0, t1 = (F.normalize(clip.get_text_features(input_ids=torch.from_numpy(tok(c))), dim=-1) for c in (caps0, caps1))
    return torch.stack([(img[:, 0] * t0).sum(-1), (img[:, 1] * t1).sum(-1), (img[:, 0] * img[:, 1]).sum(-1),
                        F.cosine_similarity(img[:, 1] - img[:, 0], t1 - t0)], 1).numpy()


def iou(a, b):
    return (a & b).sum() / max(1, (a | b).sum())


def drawing(m, n, steps, guidance, seed=1, verbose=True):
    """Figures of the drawing models alone."""
    rng = np.random.default_rng(seed)
    out = {}
    es = edits(n, seed)
    pix = m.draw([e[1] for e in es], [e[2] for e in es], rng.uniform(0.1, 0.9, n).tolist(),
                 rng.uniform(*guidance, n).tolist(), steps, seed)
    reads = [[world.read(p)[0] for p in pp] for pp in pix]
    out["source_matches"] = float(np.mean([world.matches(r[0], e[1]) for r, e in zip(reads, es)]))
    out["target_matches"] = float(np.mean([world.matches(r[1], e[2]) for r, e in zip(reads, es)]))
    for k in world.KINDS:
        i = world.KINDS.index(k)
        rows = [(r[0][i], world.parse(e[1])[k]) for r, e in zip(reads, es) if k in world.parse(e[1])]
        out["source_" + k] = float(np.mean([a == b for a, b in rows]))
    ok = [world.correct_edit(*r, e[1], e[2]) for r, e in zip(reads, es)]
    out["correct_edits"] = float(np.mean(ok))
    for k in world.EDIT_WEIGHTS:
        out["correct_" + k] = float(np.mean([o for o, e in zip(ok, es) if e[0] == k]))
    return out, pix, es, reads, ok


def sharing(m, n, steps, guidance, seed=2):
    """Mask IoU before and after colour and background edits, by p2p threshold (the same noise each time)."""
    es = edits(n, seed, ["colour", "background"])
    g = np.random.default_rng(seed).uniform(*guidance, n).tolist()
    out = {}
    for name, p in (("none", 0.0), ("0.1", 0.1), ("0.5", 0.5), ("0.9", 0.9)):
        pix = m.draw([e[1] for e in es], [e[2] for e in es], [p] * n, g, steps, seed)
        both = [(world.read(a), world.read(b)) for a, b in pix]
        good = [iou(a[1], b[1]) for a, b in both]
        out[name] = dict(iou=float(np.mean(good)), colour=float(np.mean(good[0::2])), background=float(np.mean(good[1::2])),
                         correct=float(np.mean([world.correct_edit(a[0], b[0], e[1], e[2]) for (a, b), e in zip(both, es)])))
    return out


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--models", default=os.path.join(world.HERE, ".."))
    a.add_argument("--unet", help="a checkpoint of unet.py or share.py")
    a.add_argument("--pairs", type=int, default=200)
    a.add_argument("--steps", type=int, default=20)
    a.add_argument("--guidance", type=float, nargs=2, default=[2.0, 5.0])
    a.add_argument("--threads", type=int, default=1)
    a.add_argument("--sheet")
    a.add_argument("--no-sharing", action="store_true")
    a = a.parse_args()
    torch.set_num_threads(a.threads)
    m = with_checkpoint(a.models, a.unet) if a.unet else from_folder(a.models)
    t = time.time()
    out, pix, es, reads, ok = drawing(m, a.pairs, a.steps, a.guidance)
    print(json.dumps(out, indent=1), f"{time.time() - t:.0f}s", flush=True)
    if a.sheet:
        from PIL import Image
        n = min(60, a.pairs) // 10 * 10
        im = pix[:n].reshape(-1, 10, 2, 64, 64, 3).transpose(0, 3, 1, 2, 4, 5).reshape(-1, 10 * 128, 3)
        Image.fromarray(im).save(a.sheet)
    if not a.no_sharing:
        print(json.dumps(sharing(m, a.pairs // 2, a.steps, a.guidance), indent=1), flush=True)
    folder = os.path.join(a.models, "clip")
    if os.path.exists(folder) and not a.unet:
        from transformers import CLIPModel
        c = CLIPModel.from_pretrained(folder, torch_dtype=torch.float32).eval()
        sim = similarities(c, m.tok, pix, [e[1] for e in es], [e[2] for e in es])
        thresholds(sim, np.array(ok))


def thresholds(sim, ok):
    print("all candidates: correct", round(float(ok.mean()), 3))
    for kind, good in (("correct", ok), ("wrong", ~ok)):
        if good.any():
            print(kind, "quantiles 5/25/50/75/95:", {n: np.quantile(sim[good, i], [.05, .25, .5, .75, .95]).round(2).tolist()
                                                     for i, n in enumerate(("t0", "t1", "img", "dir"))})
    for tt in (0.2, 0.4, 0.5, 0.6, 0.7):
        for td in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7):
            keep = (sim[:, 0] > tt) & (sim[:, 1] > tt) & (sim[:, 3] > td)
            if keep.any():
                print(f"text {tt} direction {td}: kept {keep.mean():.2f} correct {ok[keep].mean():.3f}")


if __name__ == "__main__":
    main()

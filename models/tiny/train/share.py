"""Train the UNet on, so that shared self-attention carries the scene.

python share.py --models .. --out DIR --steps 6000

Half of each batch are sources, half are targets: the same scene after an edit, from the same jitter. Targets
take the self-attention weights of their sources, as Prompt-to-Prompt does when drawing, and have to come out
with their source's layout. A target whose noisy latent already shows that layout learns nothing from the
maps, so most targets start from a picture with the right colours in the wrong place: only the maps tell
them where the object belongs. Without this, convolutions carry the layout and sharing holds nothing.
"""
import argparse
import copy
import os
import time

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

import cliptok
import unet as unetmod
import world

COLOUR, BACKGROUND = world.KINDS.index("colour"), world.KINDS.index("background")


def variants(rng, scene):
    """The scene and what edits make of it: other colours and backgrounds, another shape, the other size."""
    def other(kind, count):
        i = world.KINDS.index(kind)
        values = [v for v in world.VALUES[kind] if v != scene[i]]
        return [scene[:i] + (values[int(j)],) + scene[i + 1:] for j in rng.permutation(len(values))[:count]]
    return [scene] + other("colour", 2) + other("background", 2) + other("shape", 1) + other("size", 1)


def pool(vae, layouts, seed):
    """Scenes and latents of `layouts` groups of variants that share their jitter: lists [group][variant]."""
    rng = np.random.default_rng(seed)
    scenes, pix = [], []
    for _ in range(layouts):
        group, jitter = variants(rng, world.random_scene(rng)), rng.integers(1 << 62)
        scenes.append(group)
        pix += [world.render(s, np.random.default_rng(jitter)) for s in group]
    out = []
    with torch.no_grad():
        for i in range(0, len(pix), 256):
            x = torch.from_numpy(np.stack(pix[i:i + 256])).permute(0, 3, 1, 2).float() / 127.5 - 1
            out.append(vae.encode(x).latent_dist.mean)
    z = torch.cat(out) * vae.config.scaling_factor
    return scenes, z.reshape(layouts, -1, *z.shape[1:])


def edited_words(rng, words, scene, after):
    """The words of the edited caption: an edit says its new value, also where the caption left it unsaid."""
    return {k: world.pick(rng, world.WORDS[k][b]) if a != b else words[k] for k, a, b in zip(world.KINDS, scene, after)}


class Batches:
    def __init__(self, vae, layouts, seed):
        self.scenes, self.z = pool(vae, layouts, seed)
        self.looks = {}
        for g, group in enumerate(self.scenes):
            for v, s in enumerate(group):
                self.looks.setdefault((s[COLOUR], s[BACKGROUND]), []).append((g, v))

    def draw(self, rng, n, unsaid, empty):
        """n pairs: captions of sources and targets, latents of both, and of pictures that look like the targets elsewhere."""
        caps, x0, x1, astray = ([], []), [], [], []
        for _ in range(n):
            g = int(rng.integers(len(self.scenes)))
            a, b = (int(v) for v in rng.permutation(len(self.scenes[g]))[:2])
            if rng.random() < 0.7:  # most pairs are one edit apart; the rest teach two at once
                a, b = (0, max(a, b)) if rng.random() < 0.5 else (max(a, b), 0)
            before, after = self.scenes[g][a], self.scenes[g][b]
            form, words = world.random_form(rng), world.random_words(rng, before, unsaid)
            nothing = rng.random() < empty
            caps[0].append("" if nothing else world.compose(form, words))
            caps[1].append("" if nothing else world.compose(form, edited_words(rng, words, before, after)))
            x0.append(self.z[g, a])
            x1.append(self.z[g, b])
            astray.append(self.z[world.pick(rng, self.looks[after[COLOUR], after[BACKGROUND]])])
        return caps[0] + caps[1], torch.stack(x0), torch.stack(x1), torch.stack(astray)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--models", default=os.path.join(world.HERE, ".."))
    a.add_argument("--out", required=True)
    a.add_argument("--steps", type=int, default=6000)
    a.add_argument("--batch", type=int, default=64)
    a.add_argument("--layouts", type=int, default=3000)
    a.add_argument("--lr", type=float, default=5e-4)
    a.add_argument("--ema", type=float, default=0.998)
    a.add_argument("--power", type=float, default=0.6, help="time steps are 1000 u^power; below 1 favours high noise")
    a.add_argument("--shared", type=float, default=0.8, help="share of targets that take their source's maps")
    a.add_argument("--astray", type=float, default=0.6, help="share of those that start from a picture in the wrong place")
    a.add_argument("--bf16", action="store_true")
    a.add_argument("--threads", type=int, default=1)
    a = a.parse_args()
    os.makedirs(a.out, exist_ok=True)
    torch.set_num_threads(a.threads)
    folder = os.path.join(a.models, "diffusion")
    vae = AutoencoderKL.from_pretrained(os.path.join(folder, "vae"), torch_dtype=torch.float32).eval()
    nets = torch.nn.ModuleDict(dict(
        unet=UNet2DConditionModel.from_pretrained(os.path.join(folder, "unet"), torch_dtype=torch.float32),
        text=CLIPTextModel.from_pretrained(os.path.join(folder, "text_encoder"), torch_dtype=torch.float32,
                                           attn_implementation="eager"))).train()
    attention = unetmod.PlainAttention()
    nets["unet"].set_attn_processor(attention)
    ema = copy.deepcopy(nets).requires_grad_(False)
    params = list(nets.parameters())
    opt = torch.optim.AdamW(params, lr=a.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    step, spent, path = 0, 0.0, os.path.join(a.out, "unet.pt")
    if os.path.exists(path):
        s = torch.load(path, weights_only=False)
        nets.load_state_dict(s["nets"]); ema.load_state_dict(s["ema"]); opt.load_state_dict(s["opt"])
        step, spent = s["step"], s["spent"]
    batches, tok = Batches(vae, a.layouts, 5), cliptok.Words()
    print("pool of", tuple(batches.z.shape), "spread", batches.z.std().item(), flush=True)
    ac = unetmod.schedule()
    snr = ac / (1 - ac)
    weight = unetmod.loss_weight(snr)
    rng = np.random.default_rng(5000 + step)
    torch.manual_seed(6000 + step)
    n, t0, run = a.batch // 2, time.time(), {}
    while step < a.steps:
        lr = a.lr * min(1, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * min(1, step / a.steps))))
        for g in opt.param_groups:
            g["lr"] = float(lr)
        caps, x0, x1, other = batches.draw(rng, n, unetmod.UNSAID, 0.12)
        t = (torch.rand(n) + torch.arange(n)) / n
        t = (1000 * t ** a.power).long().clamp(max=999)
        on = torch.rand(n) < a.shared
        # at low noise a wrong place can't be put right any more
        astray = on & (torch.rand(n) < a.astray) & (snr[t] < 4)
        attention.on = on[:, None, None]
        e0 = torch.randn_like(x0)
        e1 = torch.where((astray | (torch.rand(n) < 0.6))[:, None, None, None], e0, torch.randn_like(x0))
        s = ac[t][:, None, None, None]
        start = torch.where(astray[:, None, None, None], other, x1)
        noisy = torch.cat([s.sqrt() * x0 + (1 - s).sqrt() * e0, s.sqrt() * start + (1 - s).sqrt() * e1])
        # the noise that would lead from here to the right picture
        want = torch.cat([e0, e1 + (s / (1 - s)).sqrt() * (start - x1)])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=a.bf16):
            ctx = nets["text"](torch.from_numpy(tok(caps))).last_hidden_state
            p = nets["unet"](noisy, t.repeat(2), ctx).sample
        error = ((p.float() - want) ** 2).mean((1, 2, 3))
        loss = (error * weight[t].repeat(2)).mean()
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        step += 1
        d = min(a.ema, step / (step + 20))
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.parameters()), params, 1 - d)
        error = (error * weight[t].repeat(2)).detach()
        for name, rows in dict(source=error[:n], astray=error[n:][astray], true=error[n:][on & ~astray], alone=error[n:][~on]).items():
            if len(rows):
                run[name] = run.get(name, rows.mean().item()) * 0.98 + 0.02 * rows.mean().item()
        if step % 50 == 0:
            print(step, f"{time.time() - t0:.0f}s", {k: round(v, 4) for k, v in run.items()}, flush=True)
        if step % 250 == 0 or step == a.steps:
            torch.save(dict(nets=nets.state_dict(), ema=ema.state_dict(), opt=opt.state_dict(), step=step,
                            scale=vae.config.scaling_factor, spent=spent + time.time() - t0), path + ".tmp")
            os.replace(path + ".tmp", path)


if __name__ == "__main__":
    main()

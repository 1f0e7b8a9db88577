"""Train the UNet on, so that shared self-attention carries the scene.

python share.py --models .. --out DIR --steps 6000

Half of each batch are sources, half are targets: the same scene after an edit, from the same jitter. Targets
take the self-attention weights of their sources, as Prompt-to-Prompt does when drawing, and have to come out
with their source's layout. A target whose noisy latent already shows that layout learns nothing from the
maps, so most targets start from a picture with the right colours in the wrong place: only the maps tell
them where the object belongs. Without this, convolutions carry the layout and sharing holds nothing.
"""
import os

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

import cliptok
import loop
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


def exported(folder):
    """The exported models to go on from: the autoencoder, and UNet and text encoder as unet.py trains them."""
    vae = AutoencoderKL.from_pretrained(os.path.join(folder, "vae"), torch_dtype=torch.float32).eval()
    nets = torch.nn.ModuleDict(dict(
        unet=UNet2DConditionModel.from_pretrained(os.path.join(folder, "unet"), torch_dtype=torch.float32),
        text=CLIPTextModel.from_pretrained(os.path.join(folder, "text_encoder"), torch_dtype=torch.float32,
                                           attn_implementation="eager"))).train()
    return vae, nets


class Sharing:
    """The loss of one batch after the other: how well targets are denoised that take their sources' maps."""

    def __init__(self, a, nets, attention, batches, rng):
        self.a, self.nets, self.attention, self.batches, self.rng = a, nets, attention, batches, rng
        self.tok, self.noise = cliptok.Words(), unetmod.Noise()

    def roles(self, t):
        """Which targets take their source's maps, and which of these start from a picture in the wrong place."""
        n = len(t)
        on = torch.rand(n) < self.a.shared
        # at low noise a wrong place can't be put right any more
        astray = on & (torch.rand(n) < self.a.astray) & (self.noise.snr[t] < 4)
        return on, astray

    def noisy_and_wanted(self, t, astray, x0, x1, other):
        """Noisy latents of sources and targets, and the noise that would lead from them to the right pictures."""
        e0 = torch.randn_like(x0)
        e1 = torch.where((astray | (torch.rand(len(t)) < 0.6))[:, None, None, None], e0, torch.randn_like(x0))
        start = torch.where(astray[:, None, None, None], other, x1)
        s = self.noise.kept_at(t)
        noisy = torch.cat([self.noise.add(x0, e0, t), self.noise.add(start, e1, t)])
        return noisy, torch.cat([e0, e1 + (s / (1 - s)).sqrt() * (start - x1)])

    def __call__(self):
        n = self.a.batch // 2
        caps, x0, x1, other = self.batches.draw(self.rng, n, unetmod.UNSAID, 0.12)
        t = unetmod.times(n, self.a.power)
        on, astray = self.roles(t)
        noisy, want = self.noisy_and_wanted(t, astray, x0, x1, other)
        self.attention.on = on[:, None, None]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.a.bf16):
            ctx = self.nets["text"](torch.from_numpy(self.tok(caps))).last_hidden_state
            p = self.nets["unet"](noisy, t.repeat(2), ctx).sample
        error = ((p.float() - want) ** 2).mean((1, 2, 3)) * self.noise.weight[t].repeat(2)
        source, target = error.detach().split(n)
        rows = dict(source=source, astray=target[astray], true=target[on & ~astray], alone=target[~on])
        return error.mean(), {name: e.mean() for name, e in rows.items() if len(e)}


def main():
    p = loop.options(steps=6000, lr=5e-4)
    p.add_argument("--models", default=os.path.join(world.HERE, ".."))
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--layouts", type=int, default=3000)
    p.add_argument("--ema", type=float, default=0.998)
    p.add_argument("--power", type=float, default=0.6, help="time steps are 1000 u^power; below 1 favours high noise")
    p.add_argument("--shared", type=float, default=0.8, help="share of targets that take their source's maps")
    p.add_argument("--astray", type=float, default=0.6, help="share of those that start from a picture in the wrong place")
    p.add_argument("--bf16", action="store_true")
    a = loop.begin(p)
    vae, nets = exported(os.path.join(a.models, "diffusion"))
    attention = unetmod.PlainAttention()
    nets["unet"].set_attn_processor(attention)
    run = loop.Run(os.path.join(a.out, "unet.pt"), dict(nets=nets), unetmod.optimiser(nets, a.lr), averaged=nets,
                   scale=vae.config.scaling_factor)
    batches = Batches(vae, a.layouts, 5)
    print("pool of", tuple(batches.z.shape), "spread", batches.z.std().item(), flush=True)
    rng = run.seed(5000, 6000)
    run.train(Sharing(a, nets, attention, batches, rng), a.steps, a.lr, warm=100, save_every=250, decay=a.ema)


if __name__ == "__main__":
    main()

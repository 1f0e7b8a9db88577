"""Train the autoencoder.  python vae.py --out DIR --steps 6000 [--crop 32]

Continues from DIR/vae.pt when it is there.  The loss weighs the object's pixels
more than the background's, and a linear read-out of each latent must give the
mean colour of its 8x8 patch: without it hue is the last thing learned.
"""
import argparse
import copy
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

import world


def build():
    return AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, block_out_channels=(16, 32, 64, 64),
        layers_per_block=1, latent_channels=4, norm_num_groups=8, sample_size=world.N)


def pool(n, seed):
    """Pictures as float [-1, 1] NCHW in uint8 storage, and the object masks."""
    scenes, pix = world.batch(n, seed)
    pix = torch.from_numpy(pix).permute(0, 3, 1, 2).contiguous()
    empty = {}
    for b in world.BACKGROUNDS:
        bg = world.WORLD["backgrounds"][b]
        t, e = np.array(bg["top"], float), np.array(bg["bottom"], float)
        r = np.round(t + (e - t) * (np.arange(world.N)[:, None] / (world.N - 1)))
        empty[b] = torch.from_numpy(r.astype(np.uint8)).permute(1, 0)[:, :, None]
    mask = torch.stack([(p != empty[s[4]]).any(0) for s, p in zip(scenes, pix)])[:, None]
    return pix, mask


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--out", required=True)
    a.add_argument("--steps", type=int, default=6000)
    a.add_argument("--batch", type=int, default=32)
    a.add_argument("--lr", type=float, default=2e-3)
    a.add_argument("--threads", type=int, default=1)
    a.add_argument("--crop", type=int, default=32, help="side of the random crops; 64 is the whole picture")
    a.add_argument("--noise", type=float, default=0.06, help="noise on the latents, in units of their spread")
    a.add_argument("--decoder-only", action="store_true")
    a.add_argument("--fp32", action="store_true")
    a = a.parse_args()
    os.makedirs(a.out, exist_ok=True)
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    vae = build()
    probe = torch.nn.Conv2d(4, 3, 1)
    params = list(vae.parameters()) + list(probe.parameters())
    opt = torch.optim.Adam(params, lr=a.lr, betas=(0.9, 0.98))
    ema = copy.deepcopy(vae)
    step, spent = 0, 0.0
    path = os.path.join(a.out, "vae.pt")
    if os.path.exists(path):
        s = torch.load(path, weights_only=False)
        vae.load_state_dict(s["vae"]); probe.load_state_dict(s["probe"])
        ema.load_state_dict(s["ema"]); opt.load_state_dict(s["opt"])
        step, spent = s["step"], s["spent"]
        if a.decoder_only:  # the encoder stays as its average is now, so cached latents stay valid
            vae.load_state_dict(s["ema"])
    pix, mask = pool(12000, 1)
    torch.manual_seed(1000 + step)
    t0, run = time.time(), {}
    while step < a.steps:
        lr = a.lr * min(1, (step + 1) / 100) * (0.03 + 0.97 * 0.5 * (1 + np.cos(np.pi * step / a.steps)))
        for g in opt.param_groups:
            g["lr"] = float(lr)
        i = torch.randint(len(pix), (a.batch,))
        x, m = pix[i], mask[i]
        if a.crop < world.N:
            o = torch.randint(0, world.N - a.crop + 1, (2, a.batch)).tolist()
            x = torch.stack([p[:, r:r + a.crop, c:c + a.crop] for p, r, c in zip(x, *o)])
            m = torch.stack([p[:, r:r + a.crop, c:c + a.crop] for p, r, c in zip(m, *o)])
        x = x.float() / 127.5 - 1
        w = 1 + 4 * m.float()
        w = w / w.mean()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not a.fp32):
            with torch.set_grad_enabled(not a.decoder_only):
                d = vae.encode(x).latent_dist
            mean = d.mean.float()
            z = mean + d.std.float() * torch.randn_like(mean)
            z = z + a.noise * mean.std().detach() * torch.randn_like(mean)
            y = vae.decode(z).sample
        y = y.float()
        l1 = (w * (y - x).abs()).mean()
        l2 = (w * (y - x) ** 2).mean()
        low = F.mse_loss(F.avg_pool2d(y, 8), F.avg_pool2d(x, 8))
        hue = F.mse_loss(probe(z), F.avg_pool2d(x, 8))
        kl = 0.5 * (mean ** 2 + d.var.float() - 1 - d.logvar.float()).mean()
        loss = l1 + 2 * l2 + 2 * low + hue * (0 if a.decoder_only else 1) + 1e-4 * kl
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        step += 1
        k = min(0.998, step / (step + 20))
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.parameters()), list(vae.parameters()), 1 - k)
        for n, v in dict(l1=l1, l2=l2, low=low, hue=hue, kl=kl).items():
            run[n] = run.get(n, 0) * 0.98 + 0.02 * v.item()
        if step % 50 == 0:
            print(step, f"{time.time() - t0:.0f}s", {n: round(v, 4) for n, v in run.items()}, flush=True)
        if step % 200 == 0 or step == a.steps:
            torch.save(dict(vae=vae.state_dict(), probe=probe.state_dict(), ema=ema.state_dict(), opt=opt.state_dict(),
                            step=step, spent=spent + time.time() - t0), path + ".tmp")
            os.replace(path + ".tmp", path)


if __name__ == "__main__":
    main()

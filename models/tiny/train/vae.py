"""Train the autoencoder.  python vae.py --out DIR --steps 6000 [--crop 32]

Continues from DIR/vae.pt when it is there.  The loss weighs the object's pixels
more than the background's, and a linear read-out of each latent must give the
mean colour of its 8x8 patch: without it hue is the last thing learned.
"""
import os

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

import loop
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


def crops(pictures, side):
    """One square of `side` pixels from each row, at the same place in each of the `pictures` (tensors of equal rows)."""
    if side >= world.N:
        return pictures
    at = torch.randint(0, world.N - side + 1, (2, len(pictures[0]))).tolist()
    return [torch.stack([p[:, r:r + side, c:c + side] for p, r, c in zip(rows, *at)]) for rows in pictures]


def restoring(a, vae, probe, pix, mask):
    """The loss of one batch after the other: how well pictures come back from their latents."""
    def through(x):
        """The picture that comes back, the noisy latent between, and how far the latents are from a normal distribution."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not a.fp32):
            with torch.set_grad_enabled(not a.decoder_only):
                d = vae.encode(x).latent_dist
            mean = d.mean.float()
            z = mean + d.std.float() * torch.randn_like(mean)
            z = z + a.noise * mean.std().detach() * torch.randn_like(mean)
            y = vae.decode(z).sample
        return y.float(), z, 0.5 * (mean ** 2 + d.var.float() - 1 - d.logvar.float()).mean()

    def draw_loss():
        i = torch.randint(len(pix), (a.batch,))
        x, m = crops([pix[i], mask[i]], a.crop)
        x = x.float() / 127.5 - 1
        w = 1 + 4 * m.float()
        w = w / w.mean()
        y, z, kl = through(x)
        l1 = (w * (y - x).abs()).mean()
        l2 = (w * (y - x) ** 2).mean()
        low = F.mse_loss(F.avg_pool2d(y, 8), F.avg_pool2d(x, 8))
        hue = F.mse_loss(probe(z), F.avg_pool2d(x, 8))
        loss = l1 + 2 * l2 + 2 * low + hue * (0 if a.decoder_only else 1) + 1e-4 * kl
        return loss, dict(l1=l1, l2=l2, low=low, hue=hue, kl=kl)
    return draw_loss


def main():
    p = loop.options(steps=6000, lr=2e-3)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--crop", type=int, default=32, help="side of the random crops; 64 is the whole picture")
    p.add_argument("--noise", type=float, default=0.06, help="noise on the latents, in units of their spread")
    p.add_argument("--decoder-only", action="store_true")
    p.add_argument("--fp32", action="store_true")
    a = loop.begin(p)
    torch.manual_seed(1)
    vae = build()
    probe = torch.nn.Conv2d(4, 3, 1)
    opt = torch.optim.Adam([*vae.parameters(), *probe.parameters()], lr=a.lr, betas=(0.9, 0.98))
    run = loop.Run(os.path.join(a.out, "vae.pt"), dict(vae=vae, probe=probe), opt, averaged=vae)
    if a.decoder_only and run.step:  # the encoder stays as its average is now, so cached latents stay valid
        vae.load_state_dict(run.ema.state_dict())
    pix, mask = pool(12000, 1)
    run.seed(1000, 1000)
    run.train(restoring(a, vae, probe, pix, mask), a.steps, a.lr, warm=100, save_every=200, floor=0.03)


if __name__ == "__main__":
    main()

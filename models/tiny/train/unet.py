"""Train the UNet and its text encoder on cached latents.

python unet.py --vae DIR/vae.pt --out DIR --steps 9000

Noise schedule of SD 1.x, epsilon prediction, the loss weighed by SNR (little at low noise,
more at high noise), a tenth of the captions replaced by the empty one.  Each caption is encoded once
and used for `--reuse` noisy versions of its picture.
"""
import argparse
import copy
import os
import time

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

import cliptok
import vae as vaemod
import world

WIDTH = 64
UNSAID = (0.4, 0.2, 0.1)  # positions are learned last, so they are said more often than in the corpus


def schedule():
    betas = torch.linspace(0.00085 ** 0.5, 0.012 ** 0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


def loss_weight(snr):
    """The layout follows the caption at high noise, where an epsilon loss hardly shows it: raised there."""
    weight = torch.clamp(snr, max=5.0) / snr + torch.clamp(1 / snr, max=10.0)
    return weight / weight.mean()


class PlainAttention:
    """Attention as plain matrix products: on a CPU in bfloat16 its backward is several times
    faster than the fused one's.  Where `on`, rows of the second half of the batch take the
    self-attention weights of their partners in the first half, as Prompt-to-Prompt does."""
    on = None

    def __call__(self, attn, h, encoder_hidden_states=None, **kw):
        ctx = h if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(h), attn.to_k(ctx), attn.to_v(ctx)
        if encoder_hidden_states is None and self.on is not None:
            q, k = (torch.cat([r[0], torch.where(self.on, r[0], r[1])]) for r in (x.reshape(2, -1, *x.shape[1:]) for x in (q, k)))
        b, n, c = q.shape
        d = c // attn.heads

        def split(x):
            return x.reshape(b, -1, attn.heads, d).transpose(1, 2).reshape(b * attn.heads, -1, d)
        w = torch.bmm(split(q) * d ** -0.5, split(k).transpose(1, 2)).softmax(-1)
        y = torch.bmm(w.to(q.dtype), split(v)).reshape(b, attn.heads, n, d).transpose(1, 2).reshape(b, n, c)
        return attn.to_out[0](y)


def build_unet():
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2, block_out_channels=(64, 128), layers_per_block=1,
        cross_attention_dim=WIDTH, attention_head_dim=4, norm_num_groups=16)


def build_text(vocab):
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=vocab, hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=77, hidden_act="quick_gelu", layer_norm_eps=1e-5, projection_dim=WIDTH,
        bos_token_id=vocab - 2, eos_token_id=vocab - 1, pad_token_id=vocab - 1, attn_implementation="eager"))


def latents(path, n, seed):
    """Scenes and scaled latents of n pictures; the scale makes their spread 1."""
    s = torch.load(path, weights_only=False)
    m = vaemod.build()
    m.load_state_dict(s["ema"])
    m.eval()
    scenes, pix = world.batch(n, seed)
    out = []
    with torch.no_grad():
        for i in range(0, n, 250):
            x = torch.from_numpy(pix[i:i + 250]).permute(0, 3, 1, 2).float() / 127.5 - 1
            out.append(m.encode(x).latent_dist.mean)
    z = torch.cat(out)
    return scenes, z


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--vae", required=True)
    a.add_argument("--out", required=True)
    a.add_argument("--steps", type=int, default=9000)
    a.add_argument("--batch", type=int, default=64)
    a.add_argument("--reuse", type=int, default=2)
    a.add_argument("--lr", type=float, default=1e-3)
    a.add_argument("--pictures", type=int, default=16000)
    a.add_argument("--power", type=float, default=1.0, help="time steps are 1000 u^power; below 1 favours high noise")
    a.add_argument("--ema", type=float, default=0.9985)
    a.add_argument("--fp32", action="store_true")
    a.add_argument("--threads", type=int, default=1)
    a = a.parse_args()
    os.makedirs(a.out, exist_ok=True)
    torch.set_num_threads(a.threads)
    cache = os.path.join(a.out, "latents.pt")
    if not os.path.exists(cache):
        scenes, z = latents(a.vae, a.pictures, 3)
        torch.save(dict(scenes=scenes, z=z, scale=1 / z.std().item()), cache)
    c = torch.load(cache, weights_only=False)
    scenes, z = c["scenes"], c["z"] * c["scale"]
    print("scale", c["scale"], "spread by channel", z.std((0, 2, 3)).tolist(), flush=True)
    torch.manual_seed(4)
    tok = cliptok.Words()
    unet, text = build_unet(), build_text(tok.size)
    unet.set_attn_processor(PlainAttention())
    nets = torch.nn.ModuleDict(dict(unet=unet, text=text))
    ema = copy.deepcopy(nets)
    params = list(nets.parameters())
    opt = torch.optim.AdamW(params, lr=a.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    step, spent = 0, 0.0
    path = os.path.join(a.out, "unet.pt")
    if os.path.exists(path):
        s = torch.load(path, weights_only=False)
        nets.load_state_dict(s["nets"]); ema.load_state_dict(s["ema"]); opt.load_state_dict(s["opt"])
        for g in opt.param_groups:
            g["fused"] = True
        step, spent = s["step"], s["spent"]
    ac = schedule()
    snr = ac / (1 - ac)
    weight = loss_weight(snr)
    rng = np.random.default_rng(1000 + step)
    torch.manual_seed(2000 + step)
    k = a.batch // a.reuse
    t0, run = time.time(), 0
    for p in ema.parameters():
        p.requires_grad_(False)
    while step < a.steps:
        lr = a.lr * min(1, (step + 1) / 200) * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * min(1, step / a.steps))))
        for g in opt.param_groups:
            g["lr"] = float(lr)
        i = rng.integers(len(scenes), size=k)
        caps = [world.compose(world.random_form(rng), world.random_words(rng, scenes[j], UNSAID)) if rng.random() > 0.1 else "" for j in i]
        x = z[i].repeat(a.reuse, 1, 1, 1)
        t = (torch.rand(a.batch) + torch.arange(a.batch)) / a.batch  # stratified
        t = 1000 * t ** a.power
        t = t[torch.randperm(a.batch)].long().clamp(max=999)
        e = torch.randn_like(x)
        s = ac[t][:, None, None, None]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not a.fp32):
            ctx = text(torch.from_numpy(tok(caps))).last_hidden_state.repeat(a.reuse, 1, 1)
            p = unet(s.sqrt() * x + (1 - s).sqrt() * e, t, ctx).sample
        loss = ((p.float() - e) ** 2).mean((1, 2, 3))
        plain = loss.mean().item()
        loss = (loss * weight[t]).mean()
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        step += 1
        d = min(a.ema, step / (step + 20))
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.parameters()), params, 1 - d)
        run = plain if run == 0 else run * 0.98 + 0.02 * plain
        if step % 50 == 0:
            print(step, f"{time.time() - t0:.0f}s mse {run:.4f}", flush=True)
        if step % 100 == 0 or step == a.steps:
            torch.save(dict(nets=nets.state_dict(), ema=ema.state_dict(), opt=opt.state_dict(), step=step,
                            scale=c["scale"], spent=spent + time.time() - t0), path + ".tmp")
            os.replace(path + ".tmp", path)


if __name__ == "__main__":
    main()

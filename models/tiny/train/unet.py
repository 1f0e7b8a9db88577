"""Train the UNet and its text encoder on cached latents.

python unet.py --vae DIR/vae.pt --out DIR --steps 9000

Noise schedule of SD 1.x, epsilon prediction, the loss weighed by SNR (little at low noise,
more at high noise), a tenth of the captions replaced by the empty one.  Each caption is encoded once
and used for `--reuse` noisy versions of its picture.
"""
import os

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

import cliptok
import loop
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


class Noise:
    """The noise of each time step, and what its error counts."""

    def __init__(self):
        self.kept = schedule()
        self.snr = self.kept / (1 - self.kept)
        self.weight = loss_weight(self.snr)

    def kept_at(self, t):
        """What is left of a picture's variance at each row's time step, shaped to multiply latents."""
        return self.kept[t][:, None, None, None]

    def add(self, x, e, t):
        s = self.kept_at(t)
        return s.sqrt() * x + (1 - s).sqrt() * e


def times(n, power):
    """n rising time steps 1000 u^power, one from each n-th of u."""
    u = (torch.rand(n) + torch.arange(n)) / n
    return (1000 * u ** power).long().clamp(max=999)


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


def optimiser(nets, lr):
    return torch.optim.AdamW(nets.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)


def cached_latents(a):
    """Scenes, latents of spread 1 and the scale that makes them so; made once and kept beside the checkpoint."""
    cache = os.path.join(a.out, "latents.pt")
    if not os.path.exists(cache):
        scenes, z = latents(a.vae, a.pictures, 3)
        torch.save(dict(scenes=scenes, z=z, scale=1 / z.std().item()), cache)
    c = torch.load(cache, weights_only=False)
    return c["scenes"], c["z"] * c["scale"], c["scale"]


def denoising(a, nets, tok, scenes, z, rng):
    """The loss of one batch after the other: how well the noise is told from the picture."""
    noise = Noise()

    def caption(scene):
        return world.compose(world.random_form(rng), world.random_words(rng, scene, UNSAID)) if rng.random() > 0.1 else ""

    def draw_loss():
        i = rng.integers(len(scenes), size=a.batch // a.reuse)
        caps = [caption(scenes[j]) for j in i]
        x = z[i].repeat(a.reuse, 1, 1, 1)
        t = times(a.batch, a.power)[torch.randperm(a.batch)]
        e = torch.randn_like(x)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not a.fp32):
            ctx = nets["text"](torch.from_numpy(tok(caps))).last_hidden_state.repeat(a.reuse, 1, 1)
            p = nets["unet"](noise.add(x, e, t), t, ctx).sample
        error = ((p.float() - e) ** 2).mean((1, 2, 3))
        return (error * noise.weight[t]).mean(), dict(mse=error.mean())
    return draw_loss


def main():
    p = loop.options(steps=9000, lr=1e-3)
    p.add_argument("--vae", required=True)
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--reuse", type=int, default=2)
    p.add_argument("--pictures", type=int, default=16000)
    p.add_argument("--power", type=float, default=1.0, help="time steps are 1000 u^power; below 1 favours high noise")
    p.add_argument("--ema", type=float, default=0.9985)
    p.add_argument("--fp32", action="store_true")
    a = loop.begin(p)
    scenes, z, scale = cached_latents(a)
    print("scale", scale, "spread by channel", z.std((0, 2, 3)).tolist(), flush=True)
    torch.manual_seed(4)
    tok = cliptok.Words()
    nets = torch.nn.ModuleDict(dict(unet=build_unet(), text=build_text(tok.size)))
    nets["unet"].set_attn_processor(PlainAttention())
    run = loop.Run(os.path.join(a.out, "unet.pt"), dict(nets=nets), optimiser(nets, a.lr), averaged=nets, scale=scale)
    rng = run.seed(1000, 2000)
    run.train(denoising(a, nets, tok, scenes, z, rng), a.steps, a.lr, warm=200, save_every=100, decay=a.ema)


if __name__ == "__main__":
    main()

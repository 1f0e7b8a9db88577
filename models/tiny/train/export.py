"""Write the model folders from the checkpoints, as fp16 safetensors.

python export.py --work DIR [--to ..] [--only diffusion clip llm captions share clip2]

DIR holds vae/vae.pt, unet/unet.pt, clip/clip.pt, llm/llm.pt, llm/tokenizer.json; `share` and `clip2` put what
share.py and the second clip.py made of exported models (share/unet.pt, clip2/clip.pt) in their place.
"""
import argparse
import json
import os

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

import clip as clipmod
import cliptok
import llm as llmmod
import unet as unetmod
import vae as vaemod
import world


def load(path):
    return torch.load(path, weights_only=False, map_location="cpu")


def dump(obj, path):
    with open(path, "w") as f:
        json.dump(obj, f, indent=2)
        f.write("\n")


def clean(folder):
    """Drop what only says which library version wrote the file."""
    for name in os.listdir(folder):
        os.chmod(os.path.join(folder, name), 0o644)
        if name in ("config.json", "generation_config.json"):
            p = os.path.join(folder, name)
            c = json.load(open(p))
            for k in ("_diffusers_version", "transformers_version", "_name_or_path"):
                c.pop(k, None)
            dump(c, p)


def diffusion(work, to):
    out = os.path.join(to, "diffusion")
    os.makedirs(out, exist_ok=True)
    u, v = load(f"{work}/unet/unet.pt"), load(f"{work}/vae/vae.pt")
    tok = cliptok.Words()
    nets = torch.nn.ModuleDict(dict(unet=unetmod.build_unet(), text=unetmod.build_text(tok.size)))
    nets.load_state_dict(u["ema"])
    vae = vaemod.build()
    vae.load_state_dict(v["ema"])
    vae.register_to_config(scaling_factor=round(u["scale"], 6), sample_size=world.N)
    nets["unet"].half().save_pretrained(os.path.join(out, "unet"))
    nets["text"].half().save_pretrained(os.path.join(out, "text_encoder"))
    vae.half().save_pretrained(os.path.join(out, "vae"))
    cliptok.save(os.path.join(out, "tokenizer"))
    os.makedirs(os.path.join(out, "scheduler"), exist_ok=True)
    dump({"_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
          "clip_sample": False, "num_train_timesteps": 1000, "prediction_type": "epsilon", "set_alpha_to_one": False,
          "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None},
         os.path.join(out, "scheduler", "scheduler_config.json"))
    dump({"_class_name": "StableDiffusionPipeline", "feature_extractor": [None, None],
          "requires_safety_checker": False, "safety_checker": [None, None],
          "scheduler": ["diffusers", "PNDMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
          "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
          "vae": ["diffusers", "AutoencoderKL"]}, os.path.join(out, "model_index.json"))
    for d in ("unet", "text_encoder", "vae"):
        clean(os.path.join(out, d))
    print("diffusion: unet step", u["step"], "vae step", v["step"], "scale", u["scale"])


def share(work, to):
    out = os.path.join(to, "diffusion")
    s = load(f"{work}/share/unet.pt")
    nets = torch.nn.ModuleDict(dict(unet=unetmod.build_unet(), text=unetmod.build_text(cliptok.Words().size)))
    nets.load_state_dict(s["ema"])
    nets["unet"].half().save_pretrained(os.path.join(out, "unet"))
    nets["text"].half().save_pretrained(os.path.join(out, "text_encoder"))
    for d in ("unet", "text_encoder"):
        clean(os.path.join(out, d))
    print("unet: shared step", s["step"])


def clip2(work, to):
    clip(work, to, "clip2")


def clip(work, to, name="clip"):
    out = os.path.join(to, "clip")
    s = load(f"{work}/{name}/clip.pt")
    m = clipmod.build(cliptok.Words().size)
    m.load_state_dict(s["ema"])
    m.half().save_pretrained(out)
    cliptok.save(out)
    dump({"crop_size": {"height": 64, "width": 64}, "do_center_crop": True, "do_convert_rgb": True, "do_normalize": True,
          "do_rescale": True, "do_resize": True, "image_mean": [0.48145466, 0.4578275, 0.40821073],
          "image_processor_type": "CLIPImageProcessor", "image_std": [0.26862954, 0.26130258, 0.27577711],
          "resample": 3, "rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 64}},
         os.path.join(out, "preprocessor_config.json"))
    clean(out)
    print("clip: step", s["step"])


def llm(work, to):
    out = os.path.join(to, "llm")
    s = load(f"{work}/llm/llm.pt")
    tok = llmmod.tokenizer(f"{work}/llm/tokenizer.json")
    m = llmmod.build(tok.get_vocab_size())
    m.load_state_dict(s["model"])
    m.half().save_pretrained(out)
    tok.save(os.path.join(out, "tokenizer.json"))
    dump({"bos_token": llmmod.END, "eos_token": llmmod.END, "unk_token": llmmod.END, "add_bos_token": False,
          "add_eos_token": False, "add_prefix_space": False, "clean_up_tokenization_spaces": False,
          "model_max_length": 256, "tokenizer_class": "PreTrainedTokenizerFast"}, os.path.join(out, "tokenizer_config.json"))
    dump({"bos_token_id": 0, "eos_token_id": 0, "do_sample": True, "temperature": 0.7, "max_new_tokens": 96},
         os.path.join(out, "generation_config.json"))
    clean(out)
    print("llm: step", s["step"])


def captions(to, n=120):
    """The corpus of the quickstart: distinct captions that the language model has not seen."""
    rng = np.random.default_rng(world.WORLD["seed"])
    seen = {}
    while len(seen) < n:
        s = world.random_scene(rng)
        c = world.random_caption(rng, s)
        if world.held_out(c):
            seen.setdefault(c, s)
    with open(os.path.join(to, "captions.jsonl"), "w") as f:
        for c in seen:
            f.write(json.dumps({"caption": c}) + "\n")


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--work", required=True)
    a.add_argument("--to", default=os.path.join(world.HERE, ".."))
    a.add_argument("--only", nargs="*", default=["diffusion", "clip", "llm", "captions"])
    a = a.parse_args()
    for name in a.only:
        (captions(a.to) if name == "captions" else globals()[name](a.work, a.to))


if __name__ == "__main__":
    main()

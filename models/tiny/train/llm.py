"""Train the language model.  python llm.py --out DIR --steps 3000"""
import argparse
import os
import time

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

import world

END = "<|endoftext|>"


def example(rng, held_out):
    while True:
        scene = world.random_scene(rng)
        form, words = world.random_form(rng), world.random_words(rng, scene)
        caption = world.compose(form, words)
        if world.held_out(caption) == held_out:
            break
    kind, text, after, new_scene = world.random_edit(rng, scene, form, words)
    new = max((w for w in world.WORDS[kind][new_scene[world.KINDS.index(kind)]] if text.endswith(" " + w)), key=len)
    return caption, text, after, new


FUNCTION_WORDS = {"a", "at", "in", "near", "of", "on", "the", "under", "side"}


def told(caption, tok):
    """Tokens of the words that would name again what the caption already says."""
    out = set()
    for k, v in world.parse(caption).items():
        for w in world.WORDS[k][v]:
            for part in w.split():
                if part not in FUNCTION_WORDS:
                    out.add(tok.encode(" " + part).ids[0])
    return sorted(out)


def line(e):
    return f"{e[0]}\n##\n{e[1]}\n%%\n{e[2]}\nEND{END}"


def tokenizer(path):
    if not os.path.exists(path):
        t = Tokenizer(models.BPE())
        t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        t.decoder = decoders.ByteLevel()
        rng = np.random.default_rng(5)
        t.train_from_iterator(
            (line(example(rng, False)) for _ in range(4000)),
            trainers.BpeTrainer(vocab_size=512, special_tokens=[END], show_progress=False,
                                initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
        t.save(path)
    return Tokenizer.from_file(path)


def build(vocab):
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=vocab, hidden_size=128, intermediate_size=352, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=0, pad_token_id=None, rope_theta=10000.0))


def complete(model, tok, captions, seed, temperature=0.7, longest=96):
    """One completion of each caption, sampled; text up to the end of text or `longest` tokens."""
    g = torch.Generator().manual_seed(seed)
    outs = []
    model.eval()
    with torch.no_grad():
        for c in captions:
            ids = tok.encode(c + "\n##\n").ids
            n, past, cur = len(ids), None, torch.tensor([ids])
            for _ in range(longest):
                r = model(cur, past_key_values=past, use_cache=True)
                past = r.past_key_values
                nxt = torch.multinomial((r.logits[0, -1].float() / temperature).softmax(-1), 1, generator=g).item()
                if nxt == 0:
                    break
                ids.append(nxt)
                cur = torch.tensor([[nxt]])
            outs.append(tok.decode(ids[n:]))
    return outs


def score(captions, outs):
    """Share that parses, share of exact edits, counts by kind."""
    parsed = right = 0
    kinds = {}
    for c, o in zip(captions, outs):
        body = o[:-4] if o.endswith("\nEND") else None
        parts = body.split("\n%%\n") if body else []
        if len(parts) != 2:
            continue
        parsed += 1
        k = world.edit_kind(c, *parts)
        right += k is not None
        kinds[k] = kinds.get(k, 0) + 1
    return parsed / len(outs), right / len(outs), kinds


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--out", required=True)
    a.add_argument("--steps", type=int, default=3000)
    a.add_argument("--batch", type=int, default=48)
    a.add_argument("--lr", type=float, default=2e-3)
    a.add_argument("--unlike", type=float, default=1.0, help="weight of the unlikelihood of edits that change nothing")
    a.add_argument("--threads", type=int, default=1)
    a = a.parse_args()
    os.makedirs(a.out, exist_ok=True)
    torch.set_num_threads(a.threads)
    torch.manual_seed(2)
    tok = tokenizer(os.path.join(a.out, "tokenizer.json"))
    model = build(tok.get_vocab_size())
    print(sum(p.numel() for p in model.parameters()), "parameters, vocabulary", tok.get_vocab_size(), flush=True)
    opt = torch.optim.AdamW(model.parameters(), lr=a.lr, betas=(0.9, 0.98), weight_decay=0.05)
    step, spent = 0, 0.0
    path = os.path.join(a.out, "llm.pt")
    if os.path.exists(path):
        s = torch.load(path, weights_only=False)
        model.load_state_dict(s["model"]); opt.load_state_dict(s["opt"]); step, spent = s["step"], s["spent"]
    rng = np.random.default_rng(100 + step)
    ev = np.random.default_rng(9)
    unseen = [example(ev, True)[0] for _ in range(60)]
    t0, run = time.time(), 0
    while step < a.steps:
        for g in opt.param_groups:
            g["lr"] = float(a.lr * min(1, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * step / a.steps))))
        rows, starts, spots = [], [], []
        for _ in range(a.batch):
            e = example(rng, False)
            starts.append((len(tok.encode(e[0] + "\n##\n").ids), len(tok.encode(f"{e[0]}\n##\n{e[1]}\n%%\n").ids)))
            rows.append(tok.encode(line(e)).ids)
            head = f"{e[0]}\n##\n{e[1]}"
            spots.append((len(tok.encode(head[:-len(e[3]) - 1]).ids), len(tok.encode(head).ids), told(e[0], tok)))
        n = max(map(len, rows))
        ids = torch.zeros(a.batch, n, dtype=torch.long)
        lab = torch.full((a.batch, n), -100)
        # the edited caption, which has to be copied exactly, weighs more than the free choice of the edit
        weight = torch.full((a.batch, n), 0.5)
        for i, (r, (s, m)) in enumerate(zip(rows, starts)):
            ids[i, :len(r)] = torch.tensor(r)
            lab[i, s:len(r)] = torch.tensor(r[s:])
            weight[i, m:] = 1.0
        model.train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(ids).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), lab[:, 1:].flatten(),
                                                 ignore_index=-100, reduction="none")
        w = (weight * (lab >= 0))[:, 1:].flatten()
        loss = (loss * w).sum() / w.sum()
        # where the new value is named, naming what is there already is wrong (unlikelihood)
        prob = logits.float().softmax(-1)
        again = torch.stack([prob[i, j - 1, bad].sum() for i, (b, e, bad) in enumerate(spots) for j in range(b, e)])
        loss = loss + a.unlike * -(1 - again.clamp(max=0.999)).log().mean()
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        step += 1
        run = loss.item() if run == 0 else run * 0.95 + 0.05 * loss.item()
        if step % 50 == 0:
            print(step, f"{time.time() - t0:.0f}s loss {run:.4f}", flush=True)
        if step % 500 == 0 or step == a.steps:
            outs = complete(model, tok, unseen, step)
            print("  unseen:", score(unseen, outs), repr(outs[0]), flush=True)
            torch.save(dict(model=model.state_dict(), opt=opt.state_dict(), step=step, spent=spent + time.time() - t0), path + ".tmp")
            os.replace(path + ".tmp", path)


if __name__ == "__main__":
    main()

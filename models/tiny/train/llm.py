"""Train the language model.  python llm.py --out DIR --steps 3000"""
import os

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

import loop
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


def batch(rng, tok, size):
    """Token rows, labels and weights of `size` examples, and where each names its new value and which tokens that can't be."""
    rows, starts, spots = [], [], []
    for _ in range(size):
        e = example(rng, False)
        starts.append((len(tok.encode(e[0] + "\n##\n").ids), len(tok.encode(f"{e[0]}\n##\n{e[1]}\n%%\n").ids)))
        rows.append(tok.encode(line(e)).ids)
        head = f"{e[0]}\n##\n{e[1]}"
        spots.append((len(tok.encode(head[:-len(e[3]) - 1]).ids), len(tok.encode(head).ids), told(e[0], tok)))
    n = max(map(len, rows))
    ids = torch.zeros(size, n, dtype=torch.long)
    labels = torch.full((size, n), -100)
    # the edited caption, which has to be copied exactly, weighs more than the free choice of the edit
    weight = torch.full((size, n), 0.5)
    for i, (r, (s, m)) in enumerate(zip(rows, starts)):
        ids[i, :len(r)] = torch.tensor(r)
        labels[i, s:len(r)] = torch.tensor(r[s:])
        weight[i, m:] = 1.0
    return ids, labels, weight, spots


def completing(a, model, tok, rng):
    """The loss of one batch after the other: how well captions are completed."""
    def draw_loss():
        ids, labels, weight, spots = batch(rng, tok, a.batch)
        model.train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(ids).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(),
                                                 ignore_index=-100, reduction="none")
        w = (weight * (labels >= 0))[:, 1:].flatten()
        loss = (loss * w).sum() / w.sum()
        # where the new value is named, naming what is there already is wrong (unlikelihood)
        prob = logits.float().softmax(-1)
        again = torch.stack([prob[i, j - 1, bad].sum() for i, (b, e, bad) in enumerate(spots) for j in range(b, e)])
        loss = loss + a.unlike * -(1 - again.clamp(max=0.999)).log().mean()
        return loss, dict(loss=loss)
    return draw_loss


def main():
    p = loop.options(steps=3000, lr=2e-3)
    p.add_argument("--batch", type=int, default=48)
    p.add_argument("--unlike", type=float, default=1.0, help="weight of the unlikelihood of edits that change nothing")
    a = loop.begin(p)
    torch.manual_seed(2)
    tok = tokenizer(os.path.join(a.out, "tokenizer.json"))
    model = build(tok.get_vocab_size())
    print(sum(p.numel() for p in model.parameters()), "parameters, vocabulary", tok.get_vocab_size(), flush=True)
    opt = torch.optim.AdamW(model.parameters(), lr=a.lr, betas=(0.9, 0.98), weight_decay=0.05)
    run = loop.Run(os.path.join(a.out, "llm.pt"), dict(model=model), opt)
    rng = run.seed(100, 100)
    ev = np.random.default_rng(9)
    unseen = [example(ev, True)[0] for _ in range(60)]

    def examine(step):
        outs = complete(model, tok, unseen, step)
        print("  unseen:", score(unseen, outs), repr(outs[0]), flush=True)
    run.train(completing(a, model, tok, rng), a.steps, a.lr, warm=100, save_every=500, examine=examine)


if __name__ == "__main__":
    main()

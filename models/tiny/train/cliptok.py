"""The CLIP tokenizer of the tiny models: byte symbols, merges that make every word
of the world one token, and the two special tokens last."""
import json
import os

import numpy as np

import world

START, END = "<|startoftext|>", "<|endoftext|>"


def byte_symbols():
    bs = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    cs, n = bs[:], 0
    for b in range(256):
        if b not in bs:
            bs.append(b)
            cs.append(256 + n)
            n += 1
    return [chr(c) for c in cs]


def words():
    seen = set()
    rng = np.random.default_rng(11)
    for _ in range(3000):
        s = world.random_scene(rng)
        seen.update(world.random_caption(rng, s).replace(",", " ").split())
    for k in world.KINDS:
        for v in world.VALUES[k]:
            for w in world.WORDS[k][v]:
                seen.update(w.split())
    return sorted(seen)


def build():
    """(vocab, merges): byte pair merges, most frequent pair first, until each word is one token."""
    parts = [list(w[:-1]) + [w[-1] + "</w>"] for w in words()]
    merges = []
    while True:
        count = {}
        for p in parts:
            for pair in zip(p, p[1:]):
                count[pair] = count.get(pair, 0) + 1
        if not count:
            break
        best = min(count, key=lambda q: (-count[q], q))
        merges.append(best)
        for i, p in enumerate(parts):
            out, j = [], 0
            while j < len(p):
                if j + 1 < len(p) and (p[j], p[j + 1]) == best:
                    out.append(p[j] + p[j + 1]); j += 2
                else:
                    out.append(p[j]); j += 1
            parts[i] = out
    symbols = byte_symbols()
    tokens = symbols + [s + "</w>" for s in symbols] + ["".join(m) for m in merges] + [START, END]
    return {t: i for i, t in enumerate(tokens)}, merges


def save(folder):
    os.makedirs(folder, exist_ok=True)
    vocab, merges = build()
    json.dump(vocab, open(os.path.join(folder, "vocab.json"), "w"), ensure_ascii=False)
    with open(os.path.join(folder, "merges.txt"), "w") as f:
        f.write("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))

    def special(t):
        return {"content": t, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    json.dump({"bos_token": special(START), "eos_token": special(END), "unk_token": special(END), "pad_token": END},
              open(os.path.join(folder, "special_tokens_map.json"), "w"), indent=2)
    json.dump({"add_prefix_space": False, "bos_token": special(START), "eos_token": special(END), "unk_token": special(END),
               "pad_token": END, "do_lower_case": True, "errors": "replace", "model_max_length": 77,
               "tokenizer_class": "CLIPTokenizer"},
              open(os.path.join(folder, "tokenizer_config.json"), "w"), indent=2)


class Words:
    """Fast encoder for captions of the world (all of whose words are single tokens)."""

    def __init__(self):
        self.vocab, _ = build()
        self.size = len(self.vocab)

    def __call__(self, texts, length=77):
        out = np.full((len(texts), length), self.size - 1, np.int64)
        for row, t in zip(out, texts):
            ids = [self.size - 2] + [self.vocab[w + "</w>"] for w in t.lower().replace(",", " , ").split()] + [self.size - 1]
            row[:len(ids)] = ids
        return out

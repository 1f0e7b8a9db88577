"""What the trainings have in common: steps, rate, average of the weights, log, and checkpoints to go on from.

A script builds its networks and its optimiser, makes a `Run` of them and gives `Run.train` a function that draws a batch and
returns its loss. A run that was cut is started again by the same command: it goes on from its last checkpoint. The random
numbers of a step depend on where the run was taken up, so a run that was cut ends in other weights than one that was not.
"""
import argparse
import copy
import os
import time

import numpy as np
import torch

LOG_EVERY = 50  # steps
SMOOTH = 0.98   # logged figures are running means


def options(steps, lr):
    """The options of every training script, with its own defaults."""
    p = argparse.ArgumentParser()
    p.add_argument("--out", required=True, help="folder of the checkpoint, which is gone on from when it is there")
    p.add_argument("--steps", type=int, default=steps)
    p.add_argument("--lr", type=float, default=lr)
    p.add_argument("--threads", type=int, default=1)
    return p


def begin(options):
    a = options.parse_args()
    os.makedirs(a.out, exist_ok=True)
    torch.set_num_threads(a.threads)
    return a


def rate(step, steps, peak, warm, floor):
    """Learning rate of a step: up over `warm` steps, then along a cosine down to `floor` of the peak."""
    return float(peak * min(1, (step + 1) / warm) * (floor + (1 - floor) * 0.5 * (1 + np.cos(np.pi * step / steps))))


def track(means, figures):
    for name, value in figures.items():
        value = value.item()
        means[name] = means.get(name, value) * SMOOTH + (1 - SMOOTH) * value


class Run:
    """A training and where it stands: taken up from its checkpoint at `path` if there is one.

    nets: the networks by their key in the checkpoint.  averaged: the one of them whose running average is kept, too, as `ema`.
    kept: what else the checkpoint says.
    """

    def __init__(self, path, nets, opt, averaged=None, **kept):
        self.path, self.nets, self.opt, self.averaged, self.kept = path, nets, opt, averaged, kept
        self.params = [p for g in opt.param_groups for p in g["params"]]
        self.ema = None if averaged is None else copy.deepcopy(averaged).requires_grad_(False)
        self.step, self.spent, self.started = 0, 0.0, time.time()
        if os.path.exists(path):
            self.restore()

    def stateful(self):
        return {**self.nets, **({} if self.ema is None else dict(ema=self.ema)), "opt": self.opt}

    def restore(self):
        s = torch.load(self.path, weights_only=False)
        for key, part in self.stateful().items():
            part.load_state_dict(s[key])
        for g in self.opt.param_groups:  # how to compute is this program's choice, not the checkpoint's
            g["fused"] = self.opt.defaults["fused"]
        self.step, self.spent = s["step"], s["spent"]

    def save(self):
        """In one piece: a run that is cut while it saves keeps its last checkpoint."""
        state = {key: part.state_dict() for key, part in self.stateful().items()}
        torch.save(dict(**state, step=self.step, **self.kept, spent=self.spent + time.time() - self.started), self.path + ".tmp")
        os.replace(self.path + ".tmp", self.path)

    def seed(self, numpy_seed, torch_seed):
        """Random numbers for the steps from here on: numpy's generator is returned, torch's is the global one."""
        torch.manual_seed(torch_seed + self.step)
        return np.random.default_rng(numpy_seed + self.step)

    def train(self, draw_loss, steps, lr, warm, save_every, floor=0.02, decay=0.998, examine=None):
        """Up to `steps`. draw_loss() -> (loss, figures for the log as tensors); examine(step) is called before each checkpoint."""
        self.started, means = time.time(), {}
        while self.step < steps:
            for g in self.opt.param_groups:
                g["lr"] = rate(self.step, steps, lr, warm, floor)
            loss, figures = draw_loss()
            self.descend(loss)
            self.average(decay)
            track(means, figures)
            if self.step % LOG_EVERY == 0:
                print(self.step, f"{time.time() - self.started:.0f}s", {k: round(v, 4) for k, v in means.items()}, flush=True)
            if self.step % save_every == 0 or self.step == steps:
                if examine:
                    examine(self.step)
                self.save()

    def descend(self, loss):
        self.opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        self.opt.step()
        self.step += 1

    def average(self, decay):
        """The average of the weights forgets faster in the beginning."""
        if self.ema is not None:
            d = min(decay, self.step / (self.step + 20))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.ema.parameters()), list(self.averaged.parameters()), 1 - d)

"""Trains the reader: `python train.py TRAIN.npz WEIGHTS.safetensors OUT.pt MINUTES`.

On an accelerator where there is one, else on one core. Each answered question comes with the
passage that answers it and one that does not. The weights are kept every eight minutes, and
training goes on from there; the learning rate follows the clock, so that it ends at nought.
"""

import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from network import FROZEN, Reader
from torch import Tensor
from torch.nn import functional

CLS, SEP, STOP = 101, 102, 1012
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RATE, RATE_HEADS = 1.5e-4, 1e-3
QUESTIONS = 16
"""Questions a step: about twice as many pairs."""
WINDOWS = ((0.8, 72), (0.2, 180))
"""How often a passage is cut to how many tokens: most of them short, for the time it takes."""
WEIGHTS = {0: 1, 1: 0.6, 2: 0.6, 3: 1, 4: 0.6, 5: 3, 6: 1.5, 7: 1.5, 8: 1.5, 9: 6}
"""How often a question of each data set (see `sources.py`) is asked."""
HELD_OUT = 20
"""Of every so many blocks of 20 passages one is kept for validation."""


@dataclass(frozen=True)
class Pair:
    """Tokens of a question and a passage, and where the answer is: (0, 0) where there is none."""

    ids: list[int]
    kinds: list[int]
    start: int
    end: int


class Questions:
    """The training set."""

    def __init__(self, path: Path) -> None:
        held = np.load(path)
        self.rows, self.negatives = held["rows"], held["negatives"]
        self._ids = {name: held[name].tolist() for name in ("passages", "questions", "titles")}
        self._ends = {name: [0, *held[name + "_ends"].tolist()] for name in self._ids}
        blocks = self.rows[:, 1] // 20 % HELD_OUT
        self.train = np.flatnonzero(blocks != 7)
        self.valid = np.flatnonzero(blocks == 7)

    def _list(self, name: str, at: int) -> list[int]:
        return self._ids[name][self._ends[name][at] : self._ends[name][at + 1]]

    def pair(self, at: int, passage: int, window: int, chance: random.Random) -> Pair:
        """Return a question with a passage, cut to a window that holds the answer."""
        question = self._list("questions", at)
        text = self._list("passages", passage)
        _, own, start, end = self.rows[at].tolist()
        if passage != own:
            start = end = -1
        first = chance.randint(0, max(0, len(text) - window))
        if start >= 0:
            first = min(max(first, end - window + 1, 0), start)
            end = min(end, first + window - 1)
        cut = text[first : first + window]
        title = self._list("titles", passage) if chance.random() < 0.5 else []
        head = [CLS, *question, SEP, *title, *([STOP] if title else [])]
        shared = set(question) & {*cut, *title}
        kinds = [0] + [int(i in shared) for i in question] + [0]
        kinds += [2 + int(i in shared) for i in [*title, *([STOP] if title else []), *cut]] + [2]
        offset = len(head) - first
        span = (start + offset, end + offset) if start >= 0 else (0, 0)
        return Pair([*head, *cut, SEP], kinds, *span)


def batches(data: Questions, chance: random.Random) -> Iterator[list[list[Pair]]]:
    """Return lists of groups without end: a question's pairs, the right one first if any."""
    weights = [WEIGHTS[source] for source in data.rows[data.train, 0].tolist()]
    train = data.train.tolist()
    while True:
        groups: list[list[Pair]] = []
        for at in chance.choices(train, weights, k=QUESTIONS * 16):
            [window] = chance.choices([w for _, w in WINDOWS], [share for share, _ in WINDOWS])
            group = [data.pair(at, int(data.rows[at, 1]), window, chance)]
            # The nearest are the hardest, and the likeliest to answer after all.
            near = min(int(chance.expovariate(0.4)), data.negatives.shape[1] - 1)
            passage = int(data.negatives[at, near])
            if data.rows[at, 2] >= 0 and passage != data.rows[at, 1]:
                group.append(data.pair(at, passage, window, chance))
            groups.append(group)
        groups.sort(key=lambda group: max(len(pair.ids) for pair in group))
        starts = list(range(0, len(groups), QUESTIONS))
        chance.shuffle(starts)
        yield from (groups[first : first + QUESTIONS] for first in starts)


def padded(pairs: list[Pair]) -> tuple[Tensor, Tensor, Tensor]:
    """Return token ids, kinds and mask."""
    longest = max(len(pair.ids) for pair in pairs)
    arrays = [np.zeros((len(pairs), longest), np.int64) for _ in range(3)]
    for row, pair in enumerate(pairs):
        for array, values in zip(arrays, (pair.ids, pair.kinds, [1] * len(pair.ids)), strict=True):
            array[row, : len(pair.ids)] = values
    ids, kinds, mask = (torch.from_numpy(array).to(DEVICE) for array in arrays)
    return ids, kinds, mask


def loss_of(model: Reader, groups: list[list[Pair]]) -> Tensor:
    """Return how wrong it is: that a pair answers, where, and which of two answers."""
    pairs = [pair for group in groups for pair in group]
    with torch.autocast(DEVICE, torch.bfloat16):
        answers, spans = model(*padded(pairs))
    right = torch.tensor([float(pair.start > 0) for pair in pairs], device=DEVICE)
    loss = functional.binary_cross_entropy_with_logits(answers, right)
    starts = torch.tensor([pair.start for pair in pairs], device=DEVICE)
    ends = torch.tensor([pair.end for pair in pairs], device=DEVICE)
    loss = loss + 0.25 * functional.cross_entropy(spans[..., 0], starts)
    loss = loss + 0.25 * functional.cross_entropy(spans[..., 1], ends)
    first = np.cumsum([0] + [len(group) for group in groups])[:-1]
    two = torch.tensor([int(at) for at, group in zip(first, groups, strict=True) if len(group) > 1])
    if len(two):
        loss = loss + 0.5 * functional.softplus(answers[two + 1] - answers[two]).mean()
    return loss


@torch.no_grad()
def validate(model: Reader, data: Questions, questions: int = 150) -> dict[str, float]:
    """Return how well it does on passages that it was not trained on."""
    chance = random.Random(7)
    model.eval()
    first = together = inside = 0
    rights: list[float] = []
    wrongs: list[float] = []
    refused: list[float] = []
    asked = chance.sample(data.valid.tolist(), questions)
    for at in asked:
        own = int(data.rows[at, 1])
        passages = [own] + [int(p) for p in data.negatives[at, :5] if int(p) != own]
        pairs = [data.pair(at, passage, 200, chance) for passage in passages]
        with torch.autocast(DEVICE, torch.bfloat16):
            answers, spans = model(*padded(pairs))
        if data.rows[at, 2] < 0:
            refused.append(float(answers[0]))
            continue
        together += 1
        first += int(answers.argmax() == 0)
        start = int(spans[0, 1:, 0].argmax()) + 1
        inside += int(pairs[0].start <= start <= pairs[0].end)
        rights.append(float(answers[0]))
        wrongs += answers[1:].tolist()
    model.train()
    return {
        "first_of_6": first / together,
        "start_inside": inside / together,
        "auc_hard": auc(rights, wrongs),
        "auc_squad2": auc(rights, refused),
    }


def auc(more: list[float], less: list[float]) -> float:
    """Return the chance that one of `more` is above one of `less`."""
    return float((np.array(more)[:, None] > np.array(less)[None, :]).mean())


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    data, chance = Questions(Path(sys.argv[1])), random.Random(1)
    model, out, seconds = Reader(Path(sys.argv[2])), Path(sys.argv[3]), 60 * float(sys.argv[4])
    if out.exists():
        model.load_state_dict(torch.load(out, map_location="cpu"))
    model.to(DEVICE)
    body = [p for layer in model.layers[FROZEN:] for p in layer.parameters()]
    heads = [
        p for m in (model.kinds, model.pooled, model.answers, model.span) for p in m.parameters()
    ]
    groups: list[dict[str, Any]] = [
        {"params": body, "lr": RATE, "rate": RATE},
        {"params": heads, "lr": RATE_HEADS, "rate": RATE_HEADS},
    ]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
    began, kept, losses, pairs, tokens = time.monotonic(), 0.0, [], 0, 0
    print("parameters:", sum(p.numel() for p in [*body, *heads]), flush=True)
    for step, batch in enumerate(batches(data, chance)):
        spent = time.monotonic() - began
        if spent >= seconds:
            break
        for group in optimiser.param_groups:
            group["lr"] = group["rate"] * min(1.0, (step + 1) / 100) * (1 - spent / seconds)
        loss = loss_of(model, batch)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*body, *heads], 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
        pairs += sum(len(group) for group in batch)
        tokens += sum(len(pair.ids) for group in batch for pair in group)
        if step % 100 == 0:
            mean = np.mean(losses[-100:])
            print(
                f"{spent:6.0f} s {step} steps {pairs} pairs {tokens} tokens {mean:.4f}", flush=True
            )
        if spent - kept > 480:
            kept = spent
            torch.save(model.state_dict(), out)
            print(f"{spent:6.0f} s {validate(model, data)}", flush=True)
    torch.save(model.state_dict(), out)
    print(f"{step} steps {pairs} pairs {tokens} tokens {validate(model, data, 400)}", flush=True)


if __name__ == "__main__":
    main()

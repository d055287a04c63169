"""Train the model: first to copy, on random tokens, then to converse.

Without the first phase nothing is copied. See induction.py for how copying gets there at all.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from drills import Drills
from induction import build_in
from network import Network, Seen, Shape
from places import BUILD
from pointing import Finder, Pointer, Told
from rendering import Renderer, template
from safetensors.torch import load_file, save_file
from tasks import conversation
from tokenizer import END, END_OF_TEXT, SPECIAL, START, learn
from tokenizers import Tokenizer
from torch import Tensor, distributed
from torch.nn import functional
from warm import from_file

TOKENIZER_CONVERSATIONS: Final = 6000
BATCH_TOKENS: Final = 3_072
POOL_CONVERSATIONS: Final = 480
"""Batches are cut from a pool sorted by length, so that little is padding."""
SAVE_EVERY_S: Final = 240.0
COMPANION_S_MAX: Final = 300.0
"""How long the other processes may take to end."""
COPIED_LOSS: Final = 0.1
"""The loss of guessing is 7.6."""
COPY_ROWS: Final = 16
PROMPT_SHARE: Final = 0.15
PROMPT_WEIGHT: Final = 0.3
LINES_WEIGHT: Final = 0.2
DRILL_SHARE: Final = 0.1

Drawn = tuple[list[int], list[float]]
"""Tokens, and the weight with which each is to be learnt."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Some conversations, each a row."""

    tokens: Tensor
    learnt: Tensor
    """The weight with which each token is to be learnt."""
    lines: tuple[Told, ...] = ()
    """Rows, and the lines of the contexts in them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast to learn."""

    minutes: float
    rate: float
    seed: int
    out: Path
    rank: int
    """The number of this process, from 0; each draws data of its own."""
    prompts_share: float
    """The part of the time in which the prompts are learnt too, which helps to read them."""

    def rate_at(self, step: int, done: float) -> float:
        """Rise for 30 steps, stay, and in the last third fall to a fiftieth."""
        fallen = max(0.02, min(1.0, (1 - done) / 0.35))
        return self.rate * min(1.0, (step + 1) / 30) * fallen


@dataclass(frozen=True, slots=True)
class Step:
    """What the processes agree on after a step."""

    loss: float
    done: float
    """The part of the training that is over; all processes go by the same clock."""


def learn_tokenizer(seed: int) -> Tokenizer:
    """Learn the vocabulary from conversations of the kind that training shows."""
    r, chat = random.Random(seed), template()
    talks = (conversation(r) for _ in range(TOKENIZER_CONVERSATIONS))
    texts = (chat.render(messages=talk.messages, tools=talk.tools) for talk in talks)
    return learn(text.replace(START, "").replace(END, "") for text in texts)


def batches(renderer: Renderer, r: random.Random) -> Iterator[Batch]:
    """Yield conversations and drills, without end."""
    drills, finder = Drills(renderer.tokenizer), Finder(renderer.tokenizer)
    while True:
        pool = [
            drills.draw(r) if r.random() < DRILL_SHARE else renderer.tokens(conversation(r))
            for _ in range(POOL_CONVERSATIONS)
        ]
        pool.sort(key=lambda drawn: len(drawn[0]))
        cut: list[list[Drawn]] = [[]]
        for drawn in pool:
            if len(drawn[0]) * (len(cut[-1]) + 1) > BATCH_TOKENS:
                cut.append([])
            cut[-1].append(drawn)
        r.shuffle(cut)
        yield from (_padded(batch, finder) for batch in cut if batch)


def _padded(batch: list[Drawn], finder: Finder) -> Batch:
    longest = max(len(ids) for ids, _ in batch)
    tokens = torch.zeros(len(batch), longest, dtype=torch.long)
    learnt = torch.zeros(len(batch), longest)
    for row, (ids, marks) in enumerate(batch):
        tokens[row, : len(ids)] = torch.tensor(ids)
        learnt[row, : len(ids)] = torch.tensor(marks)
    found = [(row, lines) for row, (ids, _) in enumerate(batch) for lines in finder.find(ids)]
    return Batch(tokens, learnt, tuple(found))


class Learner:
    """Steps down the loss: Muon for the matrices, AdamW for the embedding and the norms.

    Each process takes a batch of its own and a single thread: that shares busy cores better than
    threads inside each operation, which wait for each other thousands of times a step.
    """

    def __init__(self, network: Network) -> None:
        inside = [p for p in network.layers.parameters() if p.ndim == 2]
        rest = [p for p in network.parameters() if all(p is not q for q in inside)]
        self.network, self.pointer = network, Pointer(network.shape.width)
        rest += self.pointer.parameters()
        self._parameters = [*inside, *rest]
        self._optimizers = [
            torch.optim.Muon(inside, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.0),
        ]

    def step(self, batch: Batch, rate: float, *, with_prompt: bool, done: float) -> Step:
        """Learn from one batch a process; return the mean loss, and the mean of `done`."""
        loss = loss_of(self.network, batch, pointer=self.pointer, with_prompt=with_prompt)
        gradients = torch.autograd.grad(
            loss, self._parameters, allow_unused=True, materialize_grads=True
        )
        told = torch.tensor([loss.item(), done])
        joint = torch.cat([*(gradient.flatten() for gradient in gradients), told])
        if distributed.is_initialized():
            distributed.all_reduce(joint)
            joint /= distributed.get_world_size()
        *parts, told = joint.split([*(p.numel() for p in self._parameters), 2])
        for parameter, part in zip(self._parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        return Step(float(told[0]), float(told[1]))

    def state(self) -> list[dict[str, Any]]:
        """Return what the optimizers remember."""
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def remember(self, state: list[dict[str, Any]]) -> None:
        """Take up what `state` returned."""
        for optimizer, remembered in zip(self._optimizers, state, strict=True):
            optimizer.load_state_dict(remembered)


def copy_phase(learner: Learner, plan: Plan) -> None:
    """Teach copying: random tokens, said three times."""
    r, vocabulary = random.Random(plan.seed), learner.network.shape.vocabulary
    smoothed, step, began = 1.0, 0, time.monotonic()
    while smoothed > COPIED_LOSS:
        rate = plan.rate * min(1.0, (step + 1) / 60)
        loss = learner.step(_repeated(r, vocabulary), rate, with_prompt=False, done=0).loss
        smoothed, step = 0.9 * smoothed + 0.1 * loss, step + 1
        if step % 10 == 0:
            print(f"copy {step}: {smoothed:.3f}, {time.monotonic() - began:.0f} s", flush=True)
    print(f"copies after {step} steps, {time.monotonic() - began:.0f} s", flush=True)


def _repeated(r: random.Random, vocabulary: int) -> Batch:
    count, gap = r.randint(8, 40), r.choice([3, 8, 16, 250])
    span = torch.randint(len(SPECIAL), vocabulary, (COPY_ROWS, count))
    noise = torch.randint(len(SPECIAL), vocabulary, (COPY_ROWS, gap))
    tokens = torch.cat([noise, span, noise[:, : gap // 3], span, noise[:, gap // 2 :], span], dim=1)
    learnt = torch.zeros(tokens.shape)
    learnt[:, -count + 1 :] = 1
    second = gap + count + gap // 3
    learnt[:, second + 1 : second + count] = 1
    return Batch(tokens, learnt)


def talk_phase(learner: Learner, renderer: Renderer, plan: Plan, spent_s: float = 0.0) -> None:
    """Teach the conversations; `spent_s` went into them before."""
    began, recent, seen, step = time.monotonic() - spent_s, [7.0], 0, 0
    done, saved_s, whole_s = spent_s / 60 / plan.minutes, spent_s, 60 * plan.minutes
    drawn = batches(renderer, random.Random(f"{plan.seed} {plan.rank} {spent_s:.0f}"))
    while done < 1:
        batch = next(drawn)
        wall_s = time.monotonic() - began
        rate, prompted = plan.rate_at(step, done), done < plan.prompts_share
        stepped = learner.step(batch, rate, with_prompt=prompted, done=wall_s / whole_s)
        recent, done, step = [*recent[-49:], stepped.loss], stepped.done, step + 1
        seen += batch.tokens.numel()
        if plan.rank:
            continue
        if step % 25 == 0:
            mean, speed = sum(recent) / len(recent), seen / (wall_s - spent_s + 1)
            print(f"{step}: {mean:.4f}, {wall_s:.0f} s, {speed:.0f}/s a process", flush=True)
        if wall_s - saved_s > SAVE_EVERY_S:
            save(learner, renderer.tokenizer, plan.out, spent_s=wall_s)
            saved_s = wall_s
    if not plan.rank:
        save(learner, renderer.tokenizer, plan.out, spent_s=whole_s)
    print(f"{step} steps, {seen} tokens", flush=True)


def loss_of(network: Network, batch: Batch, *, pointer: Pointer, with_prompt: bool) -> Tensor:
    """Return the mean loss of what is to be said, plus a little of the lines and the prompt."""
    with torch.autocast("cpu", torch.bfloat16):
        seen = Seen()
        vectors = network(batch.tokens, seen)[:, :-1]
        after, weights = batch.tokens[:, 1:], batch.learnt[:, 1:]
        said = weights > 0
        scores = network.logits(vectors[said]).float()
        losses = functional.cross_entropy(scores, after[said], reduction="none")
        loss = (losses * weights[said]).sum() / weights.sum()
        if with_prompt:
            some = (torch.rand(after.shape) < PROMPT_SHARE) & ~said & (after != 0)
            read = functional.cross_entropy(network.logits(vectors[some]).float(), after[some])
            loss = loss + PROMPT_WEIGHT * read
    if batch.lines:
        loss = loss + LINES_WEIGHT * pointer.loss(network, seen, batch.tokens, batch.lines)
    return loss


def save(learner: Learner, tokenizer: Tokenizer, out: Path, *, spent_s: float) -> None:
    """Write weights, shape and vocabulary, which `load` reads, and what going on needs."""
    out.mkdir(parents=True, exist_ok=True)
    network = learner.network
    (out / "shape.json").write_text(json.dumps(asdict(network.shape)))
    tokenizer.save(str(out / "tokenizer.json"))
    torch.save(
        {
            "spent_s": spent_s,
            "optimizers": learner.state(),
            "pointer": learner.pointer.state_dict(),
        },
        out / "training.new",
    )
    save_file(network.state_dict(), out / "network.new")
    (out / "training.new").replace(out / "training.pt")
    (out / "network.new").replace(out / "network.safetensors")


def load(out: Path) -> tuple[Network, Tokenizer]:
    """Return what `save` wrote."""
    network = Network(Shape(**json.loads((out / "shape.json").read_text())))
    network.load_state_dict(load_file(out / "network.safetensors"))
    return network, Tokenizer.from_file(str(out / "tokenizer.json"))


def main() -> None:
    """Train from nothing, from a file, or go on from what `--out` holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=BUILD)
    parser.add_argument("--minutes", type=float, default=75)
    parser.add_argument("--rate", type=float, default=2.5e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--prompts-share", type=float, default=0.7)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--from", dest="begin", type=Path, help="a GGUF file to begin from")
    parser.add_argument("--go-on", action="store_true", help="from the checkpoint in --out")
    told = parser.parse_args()
    torch.manual_seed(told.seed)
    torch.set_num_threads(1)
    with _companions(told):
        train(told)


@contextmanager
def _companions(told: argparse.Namespace) -> Iterator[None]:
    """Start the other processes, each in a session of its own, and end them with this one."""
    if told.processes == 1:
        yield
        return
    told.out.mkdir(parents=True, exist_ok=True)
    meeting = told.out / "meeting"
    if not told.rank:
        meeting.unlink(missing_ok=True)
    others = [
        subprocess.Popen([sys.executable, *sys.argv, "--rank", str(rank)], start_new_session=True)
        for rank in range(1, told.processes if not told.rank else 1)
    ]
    distributed.init_process_group(
        "gloo", init_method=meeting.resolve().as_uri(), rank=told.rank, world_size=told.processes
    )
    try:
        yield
        distributed.destroy_process_group()
    finally:
        for other in others:
            other.wait(COMPANION_S_MAX)


def train(told: argparse.Namespace) -> None:
    """Do what the command line says, as one of the processes."""
    plan = Plan(
        told.minutes,
        told.rate,
        told.seed,
        told.out,
        told.rank,
        told.prompts_share,
    )
    if told.go_on:
        network, tokenizer = load(plan.out)
    elif told.begin:
        network, tokenizer = from_file(told.begin, layers=Shape(vocabulary=0).layers)
    else:
        tokenizer = learn_tokenizer(plan.seed)
        assert tokenizer.token_to_id(END_OF_TEXT) == 0, "padding is token 0"
        network = Network(Shape(vocabulary=tokenizer.get_vocab_size()))
        build_in(network)
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    print(f"{millions:.2f} M parameters, vocabulary {network.shape.vocabulary}", flush=True)
    learner, spent_s = Learner(network), 0.0
    if told.go_on:
        remembered = torch.load(plan.out / "training.pt")
        learner.remember(remembered["optimizers"])
        learner.pointer.load_state_dict(remembered["pointer"])
        spent_s = remembered["spent_s"]
    elif not told.begin:
        copy_phase(learner, plan)
    talk_phase(learner, Renderer(tokenizer), plan, spent_s)


if __name__ == "__main__":
    main()

"""Train the model: first to copy, on random tokens, then to converse.

Without the first phase nothing is copied. See induction.py for how copying gets there at all.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

import jinja2
import torch
from induction import build_in
from network import Network, Shape
from safetensors.torch import load_file, save_file
from tasks import Conversation, conversation
from tokenizer import END, END_OF_TEXT, SPECIAL, START, learn
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

HERE: Final = Path(__file__).parent
BUILD: Final = HERE.parent.parent / "build" / "tiny"
TOKENIZER_CONVERSATIONS: Final = 8000
BATCH_TOKENS: Final = 5_120
POOL_CONVERSATIONS: Final = 640
"""Batches are cut from a pool sorted by length, so that little is padding."""
SAVE_EVERY_STEPS: Final = 50
COPIED_LOSS: Final = 0.1
"""The loss of guessing is 7.6."""
COPY_ROWS: Final = 16
PROMPT_SHARE: Final = 0.15
PROMPT_WEIGHT: Final = 0.3

Batch = tuple[Tensor, Tensor]
"""Tokens, and which of them are to be learnt."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast to learn."""

    minutes: float
    rate: float
    seed: int
    out: Path
    prompts_share: float
    """The part of the time in which the prompts are learnt too, which helps to read them."""

    def rate_at(self, step: int, done: float) -> float:
        """Rise for 30 steps, then fall along a cosine to a fiftieth."""
        fallen = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        return self.rate * min(1.0, (step + 1) / 30) * fallen


class Renderer:
    """Turns conversations into tokens, exactly as llama.cpp renders the chat template."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._template = template()
        self._header = tokenizer.encode(f"{START}assistant\n").ids
        self._end = tokenizer.token_to_id(END)

    def tokens(self, talk: Conversation) -> tuple[list[int], list[bool]]:
        """Return the tokens, and which of them the model is to say."""
        text = self._template.render(messages=talk.messages, tools=talk.tools)
        ids = self.tokenizer.encode(text).ids
        learnt = [False] * len(ids)
        taught, width, i = iter(talk.taught), len(self._header), 0
        while i < len(ids):
            if ids[i : i + width] != self._header:
                i += 1
                continue
            end = ids.index(self._end, i)
            learnt[i + width : end + 1] = [next(taught)] * (end + 1 - i - width)
            i = end
        return ids, learnt


def template() -> jinja2.Template:
    """Return the chat template; its JSON looks like llama.cpp's."""
    environment = jinja2.Environment(autoescape=False)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string((HERE / "chat_template.jinja").read_text())


def learn_tokenizer(seed: int) -> Tokenizer:
    """Learn the vocabulary from conversations of the kind that training shows."""
    r, chat = random.Random(seed), template()
    talks = (conversation(r) for _ in range(TOKENIZER_CONVERSATIONS))
    texts = (chat.render(messages=talk.messages, tools=talk.tools) for talk in talks)
    return learn(text.replace(START, "").replace(END, "") for text in texts)


def batches(renderer: Renderer, r: random.Random) -> Iterator[Batch]:
    """Yield tokens and which of them are to be learnt, without end."""
    while True:
        pool = [renderer.tokens(conversation(r)) for _ in range(POOL_CONVERSATIONS)]
        pool.sort(key=lambda drawn: len(drawn[0]))
        cut: list[list[tuple[list[int], list[bool]]]] = [[]]
        for drawn in pool:
            if len(drawn[0]) * (len(cut[-1]) + 1) > BATCH_TOKENS:
                cut.append([])
            cut[-1].append(drawn)
        r.shuffle(cut)
        yield from (_padded(batch) for batch in cut if batch)


def _padded(batch: list[tuple[list[int], list[bool]]]) -> Batch:
    longest = max(len(ids) for ids, _ in batch)
    tokens = torch.zeros(len(batch), longest, dtype=torch.long)
    learnt = torch.zeros(len(batch), longest, dtype=torch.bool)
    for row, (ids, marks) in enumerate(batch):
        tokens[row, : len(ids)] = torch.tensor(ids)
        learnt[row, : len(ids)] = torch.tensor(marks)
    return tokens, learnt


class Learner:
    """Steps down the loss: Muon for the matrices, AdamW for the embedding and the norms.

    Each thread takes a batch of its own. That shares busy cores better than two threads inside
    each operation, which wait for each other thousands of times a step.
    """

    def __init__(self, network: Network, threads: int) -> None:
        inside = [p for p in network.layers.parameters() if p.ndim == 2]
        rest = [p for p in network.parameters() if all(p is not q for q in inside)]
        self.network = network
        self.threads = threads
        self._parameters = [*inside, *rest]
        self._optimizers = [
            torch.optim.Muon(inside, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self._pool = ThreadPoolExecutor(threads, initializer=lambda: torch.set_num_threads(1))

    def step(self, parts: list[Batch], rate: float, *, with_prompt: bool = False) -> float:
        """Learn from one batch a thread; return their mean loss."""
        found = list(self._pool.map(partial(self._gradients, with_prompt=with_prompt), parts))
        for i, parameter in enumerate(self._parameters):
            parameter.grad = torch.stack([gradients[i] for _, gradients in found]).mean(dim=0)
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        return sum(loss for loss, _ in found) / len(found)

    def _gradients(self, batch: Batch, *, with_prompt: bool) -> tuple[float, tuple[Tensor, ...]]:
        loss = loss_of(self.network, batch, with_prompt=with_prompt)
        return loss.item(), torch.autograd.grad(loss, self._parameters)


def copy_phase(learner: Learner, plan: Plan) -> None:
    """Teach copying: random tokens, said three times."""
    r, vocabulary = random.Random(plan.seed), learner.network.shape.vocabulary
    smoothed, step, began = 1.0, 0, time.monotonic()
    while smoothed > COPIED_LOSS:
        parts = [_repeated(r, vocabulary) for _ in range(learner.threads)]
        loss = learner.step(parts, plan.rate * min(1.0, (step + 1) / 60))
        smoothed, step = 0.9 * smoothed + 0.1 * loss, step + 1
        if step % 10 == 0:
            print(f"copy {step}: {smoothed:.3f}, {time.monotonic() - began:.0f} s", flush=True)
    print(f"copies after {step} steps, {time.monotonic() - began:.0f} s", flush=True)


def _repeated(r: random.Random, vocabulary: int) -> Batch:
    count, gap = r.randint(8, 40), r.choice([3, 8, 16, 250])
    span = torch.randint(len(SPECIAL), vocabulary, (COPY_ROWS, count))
    noise = torch.randint(len(SPECIAL), vocabulary, (COPY_ROWS, gap))
    tokens = torch.cat([noise, span, noise[:, : gap // 3], span, noise[:, gap // 2 :], span], dim=1)
    learnt = torch.zeros_like(tokens, dtype=torch.bool)
    learnt[:, -count + 1 :] = True
    second = gap + count + gap // 3
    learnt[:, second + 1 : second + count] = True
    return tokens, learnt


def talk_phase(learner: Learner, renderer: Renderer, plan: Plan) -> None:
    """Teach the conversations."""
    began, recent, seen, done, step = time.monotonic(), [7.0], 0, 0.0, 0
    drawn = batches(renderer, random.Random(plan.seed + 1))
    while done < 1:
        parts = [next(drawn) for _ in range(learner.threads)]
        rate = plan.rate_at(step, done)
        recent = [*recent[-49:], learner.step(parts, rate, with_prompt=done < plan.prompts_share)]
        seen += sum(tokens.numel() for tokens, _ in parts)
        if step % 25 == 0:
            mean, wall_s = sum(recent) / len(recent), time.monotonic() - began
            print(f"{step}: {mean:.4f}, {wall_s:.0f} s, {seen / wall_s:.0f}/s", flush=True)
        if step % SAVE_EVERY_STEPS == 0:
            save(learner.network, renderer.tokenizer, plan.out)
        step += 1
        done = (time.monotonic() - began) / 60 / plan.minutes
    save(learner.network, renderer.tokenizer, plan.out)
    print(f"{step} steps, {seen} tokens", flush=True)


def loss_of(network: Network, batch: Batch, *, with_prompt: bool) -> Tensor:
    """Return the mean loss of what is to be said, plus a little of some of the prompt."""
    tokens, learnt = batch
    with torch.autocast("cpu", torch.bfloat16):
        vectors = network(tokens)[:, :-1]
        after, said = tokens[:, 1:], learnt[:, 1:]
        loss = functional.cross_entropy(network.logits(vectors[said]).float(), after[said])
        if with_prompt:
            some = (torch.rand(after.shape) < PROMPT_SHARE) & ~said & (after != 0)
            read = functional.cross_entropy(network.logits(vectors[some]).float(), after[some])
            loss = loss + PROMPT_WEIGHT * read
    return loss


def save(network: Network, tokenizer: Tokenizer, out: Path) -> None:
    """Write weights, shape and vocabulary; `load` reads them."""
    out.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), out / "network.safetensors")
    (out / "shape.json").write_text(json.dumps(asdict(network.shape)))
    tokenizer.save(str(out / "tokenizer.json"))


def load(out: Path) -> tuple[Network, Tokenizer]:
    """Return what `save` wrote."""
    network = Network(Shape(**json.loads((out / "shape.json").read_text())))
    network.load_state_dict(load_file(out / "network.safetensors"))
    return network, Tokenizer.from_file(str(out / "tokenizer.json"))


def main() -> None:
    """Train from nothing, or go on from what `--out` holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=BUILD)
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--go-on", action="store_true", help="from the weights in --out")
    told = parser.parse_args()
    torch.manual_seed(told.seed)
    plan = Plan(told.minutes, told.rate, told.seed, told.out, 0.0 if told.go_on else 0.7)
    if told.go_on:
        network, tokenizer = load(plan.out)
    else:
        tokenizer = learn_tokenizer(plan.seed)
        assert tokenizer.token_to_id(END_OF_TEXT) == 0, "padding is token 0"
        network = Network(Shape(vocabulary=tokenizer.get_vocab_size()))
        build_in(network)
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    print(f"{millions:.2f} M parameters, vocabulary {network.shape.vocabulary}", flush=True)
    learner = Learner(network, told.threads)
    if not told.go_on:
        copy_phase(learner, plan)
    talk_phase(learner, Renderer(tokenizer), plan)


if __name__ == "__main__":
    main()

"""Shows the middle layers where to look: at the line of the context that answers.

From the answers alone, the model would have to find three steps at once: to mark in the context
what the question names, to sum that up at the end of each line, and to go from the best end to the
line's beginning. Each is taught by itself: one head of the layer `MARKED` looks from a context's
token to the same token in the question, the ends of the lines are told apart after the layer
`SUMMED`, where one head looks from the end of a line to its beginning, one head of the layer
`CHOSEN` looks from the answer's beginning to the end of the line that answers, and one of the layer
`COPIED` looks from each token of the answer to that token's place in the line.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from network import Network, Seen
from tasks import UNKNOWN, UNKNOWN_CHINESE
from tokenizer import END, START
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

MARKED: Final = 1
SUMMED: Final = 2
CHOSEN: Final = 3
COPIED: Final = 4
HEAD: Final = 3
NEVER: Final = -1e4
"""What is added to the score of a place that must not be looked at."""


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of a context, and which of them answers."""

    question: range
    """The places of the question that stands before the context."""
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    """The places of the line breaks behind them."""
    asked: int
    """The place before the first token of the answer."""
    gold: int
    """The number of the line that answers; as many as there are lines if none does."""


Told = tuple[int, Lines]
"""The row of a conversation, and the lines of a context in it."""


class Finder:
    """Finds the lines in a rendered conversation."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        def ids(text: str) -> list[int]:
            return tokenizer.encode(text).ids

        self._break = ids("\n")[0]
        self._context, self._question = ids("\nContext:\n"), ids("\nQuestion:")
        self._asks, self._answer = ids(f"{START}user\nQuestion:"), ids(f"{START}assistant\n")
        self._end = tokenizer.token_to_id(END)
        self._unknown = (ids(UNKNOWN), ids(UNKNOWN_CHINESE))

    def find(self, ids: list[int]) -> Iterator[Lines]:
        """Yield every context whose answer is one of its lines, or that there is none."""
        at = 0
        while (at := _place(ids, self._context, at)) >= 0:
            begin = max(i for i in range(at) if ids[i] == self._asks[0])
            first = at + len(self._context)
            last = _place(ids, self._question, first)
            asked = _place(ids, self._answer, last)
            if min(last, asked) < 0:
                return
            asked += len(self._answer)
            answer = ids[asked : ids.index(self._end, asked)]
            ends = [i for i in range(first, last + 1) if ids[i] == self._break]
            starts = [first, *(end + 1 for end in ends[:-1])]
            told = [ids[a:b] for a, b in zip(starts, ends, strict=True)]
            if answer in self._unknown or answer in told:
                gold = len(told) if answer in self._unknown else told.index(answer)
                question = range(begin + len(self._asks), first - len(self._context))
                yield Lines(question, tuple(starts), tuple(ends), asked - 1, gold)
            at = asked


def _place(ids: list[int], part: list[int], begin: int) -> int:
    for i in range(max(begin, 0), len(ids) - len(part) + 1):
        if ids[i : i + len(part)] == part:
            return i
    return -1


class Pointer(nn.Module):
    """Scores the ends of lines; it is not part of the model that ships."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.score = nn.Linear(width, 1, bias=False)
        self.none = nn.Parameter(torch.zeros(1))

    def loss(self, network: Network, seen: Seen, tokens: Tensor, drawn: Sequence[Told]) -> Tensor:
        """Return how badly the layers look at the lines of the contexts."""
        rows = torch.tensor([row for row, lines in drawn for _ in lines.ends])
        ends = torch.tensor([end for _, lines in drawn for end in lines.ends])
        scores = self.score(self.norm(seen.after[SUMMED][rows, ends].float())).squeeze(-1)
        known = [(row, lines) for row, lines in drawn if lines.gold < len(lines.ends)]
        return (
            self._wrong_line(scores, [lines for _, lines in drawn])
            + _unmarked(_Head.of(network, seen, MARKED), tokens, drawn)
            + 0.3 * _astray(_Head.of(network, seen, SUMMED), drawn)
            + _away_from_gold(network, seen, known)
        )

    def _wrong_line(self, scores: Tensor, drawn: Sequence[Lines]) -> Tensor:
        """Return how unlikely the line that answers is, among its context's lines and none."""
        parts = scores.split([len(lines.ends) for lines in drawn])
        table = nn.utils.rnn.pad_sequence(
            [torch.cat([part, self.none]) for part in parts], batch_first=True, padding_value=NEVER
        )
        return functional.cross_entropy(table, torch.tensor([lines.gold for lines in drawn]))


@dataclass(frozen=True, slots=True)
class _Head:
    """The queries and the keys of one head."""

    queries: Tensor
    keys: Tensor

    @classmethod
    def of(cls, network: Network, seen: Seen, layer: int) -> "_Head":
        shape = network.shape
        queries, keys = seen.looked[layer]
        key = keys[:, HEAD // (shape.heads // shape.key_heads)].float()
        return cls(queries[:, HEAD].float() * shape.head_width**-0.5, key)

    def looks(self, row: int, places: slice) -> Tensor:
        """Return the logarithm of the attention that is paid at the places of a row."""
        scores = self.queries[row, places] @ self.keys[row, : places.stop].T
        later = torch.ones_like(scores, dtype=torch.bool).triu(places.start + 1)
        return scores.masked_fill(later, NEVER).log_softmax(-1)


def _unmarked(head: _Head, tokens: Tensor, drawn: Sequence[Told]) -> Tensor:
    """Return how badly a context's tokens find themselves in the question, or else look at 0."""
    losses: list[Tensor] = []
    for row, lines in drawn:
        told = slice(lines.starts[0], lines.ends[-1])
        asked = slice(lines.question.start, lines.question.stop)
        looked = head.looks(row, told)
        same = tokens[row, told][:, None] == tokens[row, asked][None]
        found = looked[:, asked].masked_fill(~same, NEVER).logsumexp(-1)
        losses.append(-torch.where(same.any(-1), found, looked[:, 0]))
    return torch.cat(losses).mean()


def _astray(head: _Head, drawn: Sequence[Told]) -> Tensor:
    """Return how badly the tokens of a context find the beginning of their line."""
    losses: list[Tensor] = []
    for row, lines in drawn:
        looked = head.looks(row, slice(lines.starts[0], lines.ends[-1] + 1))
        each = [
            start
            for start, end in zip(lines.starts, lines.ends, strict=True)
            for _ in range(start, end + 1)
        ]
        losses.append(functional.nll_loss(looked, torch.tensor(each), reduction="none"))
    return torch.cat(losses).mean()


def _away_from_gold(network: Network, seen: Seen, known: Sequence[Told]) -> Tensor:
    """Return how little the answers see of the line that they are to copy."""
    chosen, copying = (_Head.of(network, seen, layer) for layer in (CHOSEN, COPIED))
    losses = [torch.zeros(1)]
    for row, lines in known:
        start, end = lines.starts[lines.gold], lines.ends[lines.gold]
        said = slice(lines.asked, lines.asked + end - start)
        looked = chosen.looks(row, said)[:, end]
        copied = copying.looks(row, said)[:, start:end].diagonal()
        losses.append(-looked[:1] - looked.mean() - copied[:1] - copied.mean())
    return torch.cat(losses).sum() / max(1, len(known))

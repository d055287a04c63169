"""The reader as a torch module: MiniLM's lower layers as they are, its upper layers trained on."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

FROZEN = 2
"""Layers (with the embeddings) that stay as the package has them, and need not be shipped."""
LAYERS, HIDDEN, HEADS = 6, 384, 12
KINDS = 4
"""A token is the question's (0) or the passage's (2); plus 1 where the other has it, too."""


class Layer(nn.Module):
    """A layer of BERT, its weights named as in the package."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(HIDDEN, HIDDEN) for _ in range(4))
        self.out_norm = nn.LayerNorm(HIDDEN, eps=1e-12)
        self.inner, self.outer = nn.Linear(HIDDEN, 4 * HIDDEN), nn.Linear(4 * HIDDEN, HIDDEN)
        self.outer_norm = nn.LayerNorm(HIDDEN, eps=1e-12)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        rows, tokens, _ = x.shape

        def split(y: Tensor) -> Tensor:
            return y.view(rows, tokens, HEADS, HIDDEN // HEADS).transpose(1, 2)

        # Of texts this short, torch's own attention takes four times as long to go back through.
        scores = split(self.query(x)) @ split(self.key(x)).transpose(2, 3)
        shares = torch.softmax(scores * (HIDDEN // HEADS) ** -0.5 + mask, -1, dtype=x.dtype)
        mixed = shares.to(scores.dtype) @ split(self.value(x))
        x = self.out_norm(x + self.out(mixed.transpose(1, 2).reshape(rows, tokens, HIDDEN)))
        return self.outer_norm(x + self.outer(functional.gelu(self.inner(x))))


NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "out_norm": "attention.output.LayerNorm",
    "inner": "intermediate.dense",
    "outer": "output.dense",
    "outer_norm": "output.LayerNorm",
}
"""What this module calls a part, and what the package's weights do."""


class Reader(nn.Module):
    """Says of pairs of a question and a passage whether, and where, the one answers the other."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        held = {n.removeprefix("bert."): w for n, w in load_file(weights).items()}
        self.words = nn.Embedding.from_pretrained(held["embeddings.word_embeddings.weight"])
        self.places = nn.Embedding.from_pretrained(held["embeddings.position_embeddings.weight"])
        self.kind = nn.Parameter(held["embeddings.token_type_embeddings.weight"][0], False)
        self.norm = nn.LayerNorm(HIDDEN, eps=1e-12)
        self.norm.load_state_dict(
            {p: held[f"embeddings.LayerNorm.{p}"] for p in ("weight", "bias")}
        )
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        for at, layer in enumerate(self.layers):
            layer.load_state_dict(
                {
                    f"{own}.{p}": held[f"encoder.layer.{at}.{name}.{p}"]
                    for own, name in NAMES.items()
                    for p in ("weight", "bias")
                }
            )
        for part in (self.words, self.places, self.norm, *self.layers[:FROZEN]):
            part.requires_grad_(False)
        self.kinds = nn.Embedding(KINDS, HIDDEN)
        nn.init.normal_(self.kinds.weight, std=0.02)
        self.pooled = nn.Linear(HIDDEN, HIDDEN)
        self.answers = nn.Linear(HIDDEN, 1)
        self.span = nn.Linear(HIDDEN, 2)
        self.dropout = nn.Dropout(0.1)

    def forward(self, ids: Tensor, kinds: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return a logit a pair, that it answers, and two a token: the answer starts, ends here."""
        away = torch.where(mask[:, None, None, :].bool(), 0.0, -1e4)
        with torch.no_grad():
            places = torch.arange(ids.shape[1], device=ids.device)
            x = self.norm(self.words(ids) + self.places(places) + self.kind)
            for layer in self.layers[:FROZEN]:
                x = layer(x, away)
        x = x.float() + self.kinds(kinds)
        for layer in self.layers[FROZEN:]:
            x = layer(x, away)
        answers = self.answers(self.dropout(torch.tanh(self.pooled(x[:, 0])))).squeeze(-1).float()
        spans = self.span(x).float()
        # A passage's token, or the first of all: no answer.
        open_ = (kinds >= 2) & mask.bool()
        open_[:, 0] = True
        return answers, spans.masked_fill(~open_[..., None], -1e4)

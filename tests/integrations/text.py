"""Real text, from the topics of Python's own help, and tiny models with random weights."""

from __future__ import annotations

import functools
import os
import pydoc_data.topics

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

WIDTH = 16  # letters in a piece
#: Whose pieces the classifier tells apart.
TOPICS = ("typesseq", "compound", "specialnames")


@functools.cache
def pieces(topic: str) -> torch.Tensor:
    """Return the letters of a topic in pieces, one a row."""
    letters = [min(ord(c), 127) for c in " ".join(pydoc_data.topics.topics[topic].split())]
    return torch.tensor(letters[: len(letters) // WIDTH * WIDTH]).view(-1, WIDTH)


def sentences(n: int) -> list[dict[str, torch.Tensor]]:
    """Return examples for a language model; each has another number of letters to predict."""
    rows = pieces("typesseq")[:n]
    examples = []
    for i, row in enumerate(rows):
        labels = row.clone()
        labels[: 1 + i % 7] = -100
        mask = torch.ones_like(row)
        examples.append({"input_ids": row, "attention_mask": mask, "labels": labels})
    return examples


def labelled(n: int) -> list[dict[str, torch.Tensor]]:
    """Return examples for a classifier: pieces of text, and which topic they are of."""
    examples = []
    for i in range(n):
        label = i % len(TOPICS)
        row = pieces(TOPICS[label])[i // len(TOPICS)]
        mask = torch.ones_like(row)
        mask[WIDTH - i % 4 :] = 0 if i % 4 else 1
        y = torch.tensor(label)
        examples.append({"input_ids": row, "attention_mask": mask, "labels": y})
    return examples


def bert() -> BertForSequenceClassification:
    """Return a tiny classifier, always the same; it has dropout."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=128,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=WIDTH,
        num_labels=len(TOPICS),
    )
    return BertForSequenceClassification(config)


def llama(layers: int = 1) -> LlamaForCausalLM:
    """Return a tiny language model, always the same."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=WIDTH,
    )
    return LlamaForCausalLM(config)


MODELS = {"bert": (bert, labelled), "llama": (llama, sentences)}

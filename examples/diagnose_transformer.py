# examples/diagnose_transformer.py
from pydoc_data.topics import topics

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import thalweg

WIDTH, LENGTH = 32, 32


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.letters, self.places = nn.Embedding(128, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.layer = nn.TransformerEncoderLayer(WIDTH, 4, 64, dropout=0.1, batch_first=True)
        self.head = nn.Linear(WIDTH, 128)
        self.causal = nn.Transformer.generate_square_subsequent_mask(LENGTH)

    def forward(self, x):
        seen = self.letters(x) + self.places.weight
        return self.head(self.layer(seen, src_mask=self.causal, is_causal=True))


def loss(model, rows):
    return cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())


def build(steps=60):
    torch.manual_seed(0)
    text = "".join(topics[name] for name in sorted(topics))  # of Python's own help
    letters = torch.tensor([min(ord(letter), 127) for letter in text[: 512 * (LENGTH + 1)]])
    loader = torch.utils.data.DataLoader(letters.view(-1, LENGTH + 1), 16, shuffle=True)
    model = Reader()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    while steps > 0:
        for rows in loader:
            optimizer.zero_grad()
            loss(model, rows).backward()
            optimizer.step()
            steps -= 1
    return model, loss, loader, optimizer


if __name__ == "__main__":
    print(thalweg.diagnose(*build()))

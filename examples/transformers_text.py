# examples/transformers_text.py
from pydoc_data.topics import topics

import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from thalweg.integrations.transformers import SAMTrainer


def train(folder="checkpoints", rho=0.05, accumulation="micro", pieces=2, steps=60, **settings):
    torch.manual_seed(0)
    text = "".join(topics[name] for name in sorted(topics))  # of Python's own help
    letters = torch.tensor([min(ord(letter), 127) for letter in text[: 64 * 1024]])
    rows = [{"input_ids": row, "labels": row} for row in letters.view(-1, 64)]
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = LlamaConfig(vocab_size=128, num_attention_heads=2, **sizes)
    arguments = TrainingArguments(
        folder,
        learning_rate=1e-2,
        max_steps=steps,
        gradient_accumulation_steps=pieces,
        per_device_train_batch_size=8,
        logging_steps=10,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        **settings,
    )
    sam = {"rho": rho, "accumulation": accumulation}
    trainer = SAMTrainer(LlamaForCausalLM(config), arguments, train_dataset=rows, **sam)
    trainer.train()
    return trainer.model, trainer.sam, trainer.state.log_history


if __name__ == "__main__":
    print(train()[2])

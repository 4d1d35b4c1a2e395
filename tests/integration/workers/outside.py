"""Small, randomly initialised models of the transformers library, with tied embeddings."""

import torch
from task import CLASSES
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM


class LastLogits(nn.Module):
    """The logits after the last token, as the tests' loss takes them."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.inner(input_ids=tokens, use_cache=False).logits[:, -1]


def gpt2() -> nn.Module:
    config = GPT2Config(vocab_size=CLASSES, n_positions=8, n_embd=16, n_layer=2, n_head=2)
    return LastLogits(GPT2LMHeadModel(config))


def llama() -> nn.Module:
    config = LlamaConfig(
        vocab_size=CLASSES,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=8,
        tie_word_embeddings=True,
    )
    return LastLogits(LlamaForCausalLM(config))

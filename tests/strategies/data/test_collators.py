"""transformers' collate functions, with a tokenizer that needs no network."""

from typing import Any

import pytest
import torch

from strategies.data.batches import BatchPlan
from strategies.data.options import Loading
from strategies.data.reading.loading import training_batches
from strategies.data.reading.moving import to_device

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

WORDS = ["[PAD]", "[UNK]", "[MASK]", "[CLS]", "[SEP]", *(f"w{n}" for n in range(40))]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    model = tokenizers.models.WordLevel({w: n for n, w in enumerate(WORDS)}, unk_token="[UNK]")
    own = tokenizers.Tokenizer(model)
    own.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    names |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=own, **names)


class Texts:
    """Texts of 3 to 9 words."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> Any:
        text = " ".join(f"w{(index * 7 + n) % 40}" for n in range(3 + index % 7))
        return self.tokenizer(text)


def read(tokenizer: Any, collate: Any, *, ranks: int, workers: int) -> list[Any]:
    """Return the token numbers of every micro-batch, in an order of their own."""
    plan = BatchPlan(num_samples=30, global_batch=6, micro_batch=3, epochs=2, seed=1)
    found = []
    for rank in range(ranks):
        loading = Loading(collate=collate, workers=workers)
        to: dict[str, Any] = {"first_step": 0, "rank": rank, "world_size": ranks}
        for batch in training_batches(Texts(tokenizer), plan, **to, loading=loading):
            found.append(batch["input_ids"].tolist())
            moved = to_device(batch, torch.device("meta"))
            assert {value.device.type for value in moved.values()} == {"meta"}
    # What a rank repeats because it comes short is the same again.
    return sorted(batch for n, batch in enumerate(found) if batch not in found[:n])


def test_samples_of_different_lengths_are_padded(tokenizer: Any) -> None:
    collate = transformers.DataCollatorWithPadding(tokenizer)
    alone = read(tokenizer, collate, ranks=1, workers=0)
    assert len(alone) == 20
    assert any(0 in row for batch in alone for row in batch)
    assert read(tokenizer, collate, ranks=2, workers=1) == alone


def test_masks_are_drawn_the_same_by_whoever_draws_them(tokenizer: Any) -> None:
    collate = transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.4)
    alone = read(tokenizer, collate, ranks=1, workers=0)
    masked = sum(row.count(2) for batch in alone for row in batch)
    assert masked > 20
    assert read(tokenizer, collate, ranks=2, workers=0) == alone
    assert read(tokenizer, collate, ranks=3, workers=2) == alone

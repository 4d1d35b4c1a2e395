"""trl's SFTTrainer, which is one of Hugging Face's, on a tiny model; as `trainer_worker.py`."""

import json
import os
import signal
import sys

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import SFTConfig, SFTTrainer

from launcher.bridges import RelaunchCallback

given = json.loads(sys.argv[1])
rank = int(os.environ.get("RANK", "0"))


class Printed(TrainerCallback):
    def __init__(self, lead):
        self.lead = lead

    def on_step_begin(self, args, state, control, **_):
        if self.lead == "ours" and (given.get("notice"), rank) == (state.global_step, 1):
            os.kill(os.getpid(), signal.SIGTERM)

    def on_log(self, args, state, control, logs=None, **_):
        if rank == 0 and "loss" in logs:
            print(f"{self.lead} loss {state.global_step} {logs['loss']:.17g}", flush=True)


def train(output, callbacks, last):
    torch.manual_seed(0)
    words = ["<pad>", "<eos>", "<unk>", *(f"w{number}" for number in range(40))]
    numbers = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    config = LlamaConfig(
        vocab_size=len(words), num_attention_heads=2, attention_dropout=0.1, **sizes
    )
    texts = [" ".join(f"w{(i * 7 + j * j) % 40}" for j in range(12)) for i in range(64)]
    args = SFTConfig(
        output_dir=output,
        max_steps=10,
        per_device_train_batch_size=2,
        logging_steps=1,
        save_steps=4,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        max_length=32,
    )
    trainer = SFTTrainer(
        model=LlamaForCausalLM(config),
        args=args,
        train_dataset=Dataset.from_list([{"text": text} for text in texts]),
        processing_class=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
        ),
        callbacks=callbacks,
    )
    trainer.train(resume_from_checkpoint=last(args))


if __name__ == "__main__":
    if given.get("plain"):
        train("plain", [Printed("plain")], lambda args: None)
    train("out", [Printed("ours"), RelaunchCallback()], RelaunchCallback.last)

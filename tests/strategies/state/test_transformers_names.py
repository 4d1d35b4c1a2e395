"""`weights=` of a model of transformers: what its own from_pretrained loads, name for name."""

import pytest
import torch
from torch import nn

from strategies import ConfigError, TransformersNames
from strategies.parallel.catalogue import catalogue_of
from strategies.state.pretrained import PretrainedWeights

transformers = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {
    "mixtral": {"num_local_experts": 11, "head_dim": 8},
    "qwen2_moe": {
        "num_experts": 4,
        "moe_intermediate_size": 12,
        "decoder_sparse_step": 1,
        "num_experts_per_tok": 2,
        "shared_expert_intermediate_size": 12,
    },
    "llama": {},
}


def built(kind, seed=0):
    config = transformers.AutoConfig.for_model(kind, **SMALL, **EXPERTS[kind])
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(config)


def opened(path, model):
    catalogue = catalogue_of(model)
    names = TransformersNames.of(model)
    specs = catalogue.weight_specs()
    return specs, PretrainedWeights.open(path, specs, catalogue.aliases, names)


@pytest.mark.parametrize("kind", EXPERTS)
@pytest.mark.parametrize("shard_size", ["1GB", "8KB"])
def test_what_from_pretrained_loads(kind, shard_size, tmp_path):
    built(kind).save_pretrained(tmp_path, max_shard_size=shard_size)
    other = built(kind, seed=1)
    expected = type(other).from_pretrained(tmp_path).state_dict()
    specs, source = opened(tmp_path, other)
    for spec in specs:
        whole = source.read_whole(spec.fqn, spec.key, spec.numel)
        assert torch.equal(whole.view(spec.shape), expected[spec.fqn]), spec.fqn
        cut = spec.numel // 3
        assert torch.equal(source.read(spec.fqn, spec.key, cut, spec.numel), whole[cut:])


def test_a_stale_index_is_not_followed(tmp_path):
    built("llama", seed=1).save_pretrained(tmp_path, max_shard_size="8KB")
    model = built("llama")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors.index.json").exists()
    specs, source = opened(tmp_path, built("llama", seed=2))
    for spec in specs:
        whole = source.read_whole(spec.fqn, spec.key, spec.numel)
        assert torch.equal(whole.view(spec.shape), model.state_dict()[spec.fqn])


def test_a_base_model_is_loaded_into_one_with_a_head(tmp_path):
    built("llama").model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"lm_head\.weight is in the model, but not in the file"):
        opened(tmp_path, built("llama"))


def test_an_expert_that_is_missing_is_no_smaller_model(tmp_path):
    from safetensors.torch import load_file, save_file

    built("mixtral").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if ".experts.10.w1." in name)
    save_file({n: t for n, t in tensors.items() if n != name}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"does not fit|in the model and"):
        opened(tmp_path, built("mixtral"))


def test_a_model_of_ones_own_has_no_rules():
    assert TransformersNames.of(nn.Linear(2, 2)) is None

"""`relaunch checkpoint export` of a run folder."""

import json

import torch
from safetensors import safe_open


def test_export(kit, folder, answer):
    config = folder / "any.json"
    config.write_text("{}")
    out = folder / "hf"
    words = ("--dtype", "bf16", "--shard-size", "25B", "--config", config)
    code, text = answer("export", folder, out, *words)
    assert code == 0
    assert text.startswith(f"exported best/step-{kit.BEST_STEP:08d} to {out}:")
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    with safe_open(out / "model-00001-of-00002.safetensors", "pt") as file:
        assert file.get_tensor("fc.weight").dtype == torch.bfloat16
        assert file.metadata()["tied:head.weight"] == "fc.weight"
        assert file.metadata()["step"] == str(kit.BEST_STEP)
    document = json.loads(answer("export", folder, out / "b", "--step", 30, "--json")[1])
    assert document["step"] == 30
    assert list(document["size_bytes"]) == ["model.safetensors"]


def test_export_of_damage(kit, folder, answer):
    kit.damage(folder / "best" / "step-00000020" / "r00000.safetensors")
    assert answer("export", folder, folder / "out")[0] == 1
    assert not (folder / "out").exists()

"""Models that nobody here has written, under every strategy."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

WORKER = str(Path(__file__).parents[1] / "workers" / "build_worker.py")
STRATEGIES = ("ddp", "fsdp", "zero1", "zero2", "zero3")
LARGEST_DIFFERENCE = 1e-6
NO_LIBRARY = importlib.util.find_spec("transformers") is None


@pytest.mark.slow
@pytest.mark.timeout(440)
@pytest.mark.skipif(NO_LIBRARY, reason="transformers is not installed (an extra of the tests)")
def test_gpt2_and_llama_of_transformers(launch: Callable[..., Any], tmp_path: Path) -> None:
    models = ("gpt2", "llama")
    by_name = {"init": "by-name"}
    alone = [(f"single-{m}", "single", m, "fp32", {}) for m in models]
    alone += [("single-by-name", "single", "gpt2", "fp32", by_name)]
    single = launch("--nproc-per-node", "1", WORKER, str(tmp_path), str(alone))
    assert single.wait(200) == 0, single.stderr
    ways = [(f"{s}-{m}", s, m, "fp32", {}) for m in models for s in STRATEGIES]
    ways += [("fsdp-by-name", "fsdp", "gpt2", "fp32", by_name)]
    launched = launch("--nproc-per-node", "2", WORKER, str(tmp_path), str(ways))
    assert launched.wait(220) == 0, launched.stderr
    # The library's blocks are found by themselves, and its embeddings are tied.
    assert "built fsdp-gpt2 inner.transformer.h.0 inner.transformer.h.1 1" in launched.stdout
    assert "built fsdp-llama inner.model.layers.0 inner.model.layers.1 1" in launched.stdout
    differences = {}
    for name, strategy, model, _, recipe in ways:
        truth = load_file(tmp_path / f"single-{'by-name' if recipe else model}.safetensors")
        found = load_file(tmp_path / f"{name}.safetensors")
        assert found.keys() == truth.keys()
        assert not any("lm_head" in key for key in found), strategy
        differences[name] = max(float((found[k] - truth[k]).abs().max()) for k in truth)
    too_large = {name: d for name, d in differences.items() if d > LARGEST_DIFFERENCE}
    assert not too_large, json.dumps(differences, indent=1)

"""Embeddings and heads that stay in their file: the same answers, and no memory of this process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from swarm.core import Span
from swarm.errors import InvalidConfig, UnsupportedModel
from swarm.model.checkpoint import Checkpoint
from swarm.model.layout import Layout
from swarm.model.span import SpanModel
from tests.model.pretend import Pretending
from tests.model.tiny import LAYERS, VOCAB, Chain, generated, prompt_of

HEAD = LAYERS + 1
WHOLE = Span(0, HEAD + 1)
ENDS = ("embed", "head")


@pytest.mark.parametrize("on_disk", [("embed",), ("head",), ENDS], ids="+".join)
@pytest.mark.parametrize("family", ["llama", "llama-tied", "gemma3", "granite", "opt-projected", "gpt2"])
def test_answers_do_not_depend_on_where_matrices_are(tiny, family, on_disk):
    """gemma3 and granite scale what they look up, OPT projects it, and of four of these the two matrices are one."""
    known, prompt = tiny(family), prompt_of(9)
    model = known.load(WHOLE, on_disk=on_disk)
    assert Chain([(model, 0, HEAD + 1)]).generate(prompt, 12) == generated(known.model, prompt, 12)
    ends = [known.load(Span(0, 1), on_disk=on_disk), known.load(Span(HEAD, HEAD + 1), on_disk=on_disk)]
    parts = [(ends[0], 0, 1), (model, 1, HEAD), (ends[1], HEAD, HEAD + 1)]
    assert Chain(parts).generate(prompt, 12) == generated(known.model, prompt, 12)


@pytest.mark.parametrize("on_disk", [("embed",), ("head",), ENDS], ids="+".join)
def test_a_tied_matrix_stored_under_the_name_of_the_head(tiny, tmp_path, on_disk):
    known, prompt = tiny("llama-tied"), prompt_of(9)
    shutil.copytree(known.folder, tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    checkpoint = Checkpoint.open(str(tmp_path))
    for spans in ([WHOLE], [Span(0, 1), Span(1, HEAD), Span(HEAD, HEAD + 1)]):
        parts = [(SpanModel.load(checkpoint, [span], on_disk=on_disk), span.start, span.stop) for span in spans]
        assert Chain(parts).generate(prompt, 12) == generated(known.model, prompt, 12)


@pytest.mark.parametrize("family", ["llama", "llama-tied", "gemma3"])
def test_what_is_converted_is_converted_when_it_is_used(tiny, family):
    known, prompt = tiny(family), prompt_of(9)
    inside, outside = (known.load(WHOLE, dtype="bfloat16", on_disk=on_disk) for on_disk in ((), ENDS))
    assert outside.numerics == inside.numerics == "bfloat16" and outside.dtype == torch.bfloat16
    cache, other = inside.new_cache(0, 1), outside.new_cache(0, 1)
    assert torch.equal(*(Chain([(model, 0, 1)]).feed(prompt) for model in (inside, outside)))
    assert (cache.length, other.length) == (0, 0)
    torch.testing.assert_close(*(Chain([(model, 0, HEAD + 1)]).feed(prompt, range(9)) for model in (outside, inside)))


def test_a_large_head_is_converted_piece_by_piece(tiny, monkeypatch):
    known, prompt = tiny("llama"), prompt_of(9)
    expected = Chain([(known.load(WHOLE, dtype="bfloat16"), 0, HEAD + 1)]).feed(prompt)
    monkeypatch.setattr("swarm.model.mapped.WIDE", 48 * 50)  # 131 = 50 + 50 + 31
    torch.testing.assert_close(Chain([(known.load(WHOLE, dtype="bfloat16", on_disk=ENDS), 0, HEAD + 1)]).feed(prompt), expected)


@pytest.mark.parametrize("family", ["llama", "llama-tied"])
@pytest.mark.parametrize("on_disk", [("embed",), ENDS], ids="+".join)
def test_on_a_gpu_what_is_on_disk_is_looked_up_and_multiplied_by_the_processor(tiny, family, on_disk):
    known, prompt, gpu = tiny(family), prompt_of(9), "lazy:0"
    with Pretending():
        on = {i: "cpu" if (i == 0 or i == HEAD) and ENDS[i == HEAD] in on_disk else gpu for i in range(HEAD + 1)}
        mapped = frozenset(i for i in on if on[i] == "cpu")
        model = known.load(WHOLE, on_disk=on_disk, layout=Layout((gpu,), on, mapped=mapped))
        chain = Chain([(model, 0, HEAD + 1)])
        assert {str(slab.device) for slab in (chain.feed(prompt[:3], []), chain.caches[0])[1]._keys.values()} == {gpu}
        assert not any(tensor.shape == (VOCAB, 48) and str(tensor.device) == gpu for name, tensor in model._model.named_parameters() if "embed" in name)
        tokens = chain.generate(prompt[3:], 8)
    assert tokens == generated(known.model, prompt, 8)


def test_what_cannot_stay_on_disk_is_said(tiny, monkeypatch):
    with pytest.raises(InvalidConfig, match=r"leave head out of --on-disk, or --quantize"):
        tiny("llama").load(WHOLE, on_disk=ENDS, quantize="int8")
    tiny("llama").load(WHOLE, on_disk=["embed"], quantize="int8")
    monkeypatch.setattr("swarm.model.mapped.is_token_embedding", lambda name: "layers" not in name)
    with pytest.raises(UnsupportedModel, match=r"has no single matrix for its embedding that could stay on disk; leave out --on-disk"):
        tiny("gpt2").load(WHOLE, on_disk=["embed"])


CONFIG = transformers.LlamaConfig(
    vocab_size=32768, hidden_size=512, intermediate_size=512, num_hidden_layers=1, num_attention_heads=8, num_key_value_heads=8, tie_word_embeddings=False
)
"""Matrices of 67 MB each in float32, 34 in bfloat16, and a layer of 7."""

MATRIX = 32768 * 512 * 2

SCRIPT = """
import json, sys
import torch
from swarm.core import Span
from swarm.model.checkpoint import Checkpoint
from swarm.model.memory import give_back
from swarm.model.span import Row, SpanModel

def own():
    (line,) = (line for line in open("/proc/self/smaps_rollup") if line.startswith("Anonymous:"))
    return int(line.split()[1]) * 1024

def grown(folder, start, stop, on_disk):
    give_back()
    before = own()
    model = SpanModel.load(Checkpoint.open(folder), [Span(start, stop)], dtype="bfloat16", on_disk=on_disk)
    hidden = torch.zeros(64, model.hidden) if start else None
    model.run(start, stop, [Row(model.new_cache(start, stop), 0, list(range(64)), hidden)])
    give_back()
    return own() - before, model

folder, small = sys.argv[1:]
kept = [grown(small, 0, 3, [])]  # what libraries take when they are first used
kept += [grown(folder, *span, on_disk) for span in ((0, 1), (2, 3)) for on_disk in (["embed", "head"], [])]
print(json.dumps([bytes for bytes, _ in kept[1:]]))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="only Linux tells how much of its memory is a process's own")
def test_what_is_on_disk_takes_no_memory_of_our_own(tmp_path):
    """Served in another format than the file's, since otherwise nothing is copied anyway."""
    transformers.LlamaForCausalLM(CONFIG).save_pretrained(tmp_path)
    small = tmp_path / "small"
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG.to_diff_dict() | {"vocab_size": 64})).save_pretrained(small)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(small)]
    ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stderr
    mapped_embed, embed, mapped_head, head = json.loads(ran.stdout)
    assert max(mapped_embed, mapped_head) < MATRIX / 2  # a head is converted in pieces of 16 MiB
    assert min(embed, head) > 0.9 * MATRIX

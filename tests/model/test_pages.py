"""Weights on huge pages: the same numbers, and what is shared or on disk stays so."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from swarm.core import Span
from swarm.model import pages
from swarm.model.checkpoint import Checkpoint
from swarm.model.span import Row, SpanModel

needs_huge = pytest.mark.skipif(not pages.are_to_be_had(), reason="this machine has no huge pages")

CONFIG = transformers.LlamaConfig(
    vocab_size=2048, hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True
)
"""17 MB of layers and 2 MB of a matrix for both ends, in float32."""


def mapping_of(tensor: torch.Tensor) -> tuple[str, int]:
    """What is mapped where the middle of a tensor lies (a path, or nothing), and how many KiB of that are on huge pages."""
    address, found = tensor.data_ptr() + tensor.nbytes // 2, None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if head := re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ *(.*)", line):
            found = head[3] if int(head[1], 16) <= address < int(head[2], 16) else None
        elif found is not None and line.startswith("AnonHugePages:"):
            return found, int(line.split()[1])
    raise AssertionError("the tensor lies nowhere")


@needs_huge
def test_moved_tensors_have_the_same_numbers_on_huge_pages():
    whole = torch.arange(3 * 2**20, dtype=torch.float32).view(1024, -1)
    transposed, small, odd = torch.randn(512, 1024).t(), torch.randn(16), torch.randn(333, 777)
    before = [whole.clone(), transposed.clone(), small.clone(), odd.clone()]
    stayed = small.data_ptr()
    pages.move([whole, transposed, small, odd])
    assert all(torch.equal(now, then) and now.is_contiguous() for now, then in zip([whole, transposed, small, odd], before, strict=True))
    assert small.data_ptr() == stayed
    assert not whole.data_ptr() % pages.HUGE and not transposed.data_ptr() % pages.ALIGNED and not odd.data_ptr() % pages.ALIGNED
    assert mapping_of(whole)[1] >= whole.nbytes // 1024 - 2048


@needs_huge
def test_a_tensor_larger_than_a_region_has_one_of_its_own(monkeypatch):
    monkeypatch.setattr(pages, "REGION", 2**20)
    tensors = [torch.full((n,), float(n)) for n in (2**17, 2**20, 2**17, 2**17)]
    pages.move(tensors)
    assert [tensor.unique().tolist() for tensor in tensors] == [[2.0**17], [2.0**20], [2.0**17], [2.0**17]]
    places = sorted((tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes) for tensor in tensors)
    assert all(stop <= start for (_, stop), (start, _) in pairwise(places))


@needs_huge
def test_numbers_in_a_mapped_file_are_let_go_of(tmp_path):
    save_file({"moved": torch.ones(2**21), "stays": torch.full((2**21,), 2.0)}, tmp_path / "file.safetensors")
    tensors = load_file(tmp_path / "file.safetensors")
    if not mapping_of(tensors["moved"])[0]:
        pytest.skip("safetensors reads files here instead of mapping them")
    resident = lambda: int(re.search(r"RssFile:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # noqa: E731
    assert tensors["moved"].sum() + tensors["stays"].sum() == 3 * 2**21
    before = resident()
    pages.move([tensors["moved"]])
    assert resident() <= before - 7 * 1024
    assert torch.equal(tensors["moved"], torch.ones(2**21)) and torch.equal(tensors["stays"], torch.full((2**21,), 2.0))


@needs_huge
@pytest.mark.parametrize("on_disk", [(), ("head",)])
def test_what_a_step_reads_is_on_huge_pages_and_a_head_on_disk_is_not(tmp_path, on_disk):
    reference = transformers.LlamaForCausalLM(CONFIG).eval()
    reference.save_pretrained(tmp_path)
    model = SpanModel.load(Checkpoint.open(str(tmp_path)), [Span(0, 6)], on_disk=on_disk)
    inner = model._model
    for layer in inner.model.layers:
        path, huge = mapping_of(layer.mlp.up_proj.weight)
        assert path == "" and huge > 0
    mapped, huge = mapping_of(inner.get_output_embeddings().weight)
    assert (mapped.endswith(".safetensors"), huge > 0) == ((True, False) if on_disk else (False, True))
    if not on_disk:
        assert inner.get_output_embeddings().weight is inner.get_input_embeddings().weight  # one matrix, as before
    row = Row(model.new_cache(0, 6), 0, [5, 17, 400])
    with torch.inference_mode():
        torch.testing.assert_close(model.run(0, 6, [row])[0], reference(torch.tensor([[5, 17, 400]])).logits[0, -1:], rtol=1e-4, atol=1e-4)


def test_without_huge_pages_weights_stay_where_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "SETTING", tmp_path / "none")
    assert not pages.are_to_be_had()
    (tmp_path / "none").write_text("always madvise [never]\n")
    assert not pages.are_to_be_had()
    monkeypatch.setattr(pages, "move", lambda tensors: pytest.fail("moved"))
    transformers.LlamaForCausalLM(CONFIG).save_pretrained(tmp_path / "model")
    SpanModel.load(Checkpoint.open(str(tmp_path / "model")), [Span(1, 3)])

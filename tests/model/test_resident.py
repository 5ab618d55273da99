"""How much memory a process holds once it has loaded its part of a model: the part, and not the rest."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import transformers

from swarm.core import Span

ALLOWANCE = 32 * 2**20
"""Bytes beside the weights: buffers of the BLAS, the forward pass, headers of files. Measured: 7 MiB; the rest of the model would be 160."""

CONFIG = transformers.LlamaConfig(
    vocab_size=8192, hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=8, num_key_value_heads=8, tie_word_embeddings=False
)
"""235 MB in float32, of which four layers are 67."""

MIDDLE, WHOLE = Span(5, 9), Span(0, 14)

SCRIPT = """
import json, sys
import psutil, torch
from swarm.core import Span
from swarm.model.checkpoint import Checkpoint
from swarm.model.span import Row, SpanModel

def grown(folder, start, stop):
    before, checkpoint = psutil.Process().memory_info().rss, Checkpoint.open(folder)
    model = SpanModel.load(checkpoint, [Span(start, stop)])
    hidden = None if start == 0 else torch.zeros(1, model.hidden)
    model.run(start, stop, [Row(model.new_cache(start, stop), 0, [1], hidden)])  # touches every weight
    return psutil.Process().memory_info().rss - before, checkpoint.bytes_for([Span(start, stop)]), model

tiny, folder, *spans = json.loads(sys.argv[1])
first = grown(tiny, 1, 2)  # what libraries load when a model is first loaded is not the model's
kept = [grown(folder, start, stop) for start, stop in spans]
print(json.dumps([(bytes, of) for bytes, of, model in kept]))
"""


def test_a_part_takes_its_own_bytes_of_memory_and_no_more(tiny, tmp_path):
    transformers.LlamaForCausalLM(CONFIG).save_pretrained(tmp_path)
    asked = json.dumps([str(tiny("llama").folder), str(tmp_path), *((span.start, span.stop) for span in (MIDDLE, WHOLE))])
    ran = subprocess.run([sys.executable, "-c", SCRIPT, asked], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stderr
    (part, part_bytes), (whole, whole_bytes) = json.loads(ran.stdout)
    assert 200e6 < whole_bytes < 300e6 and part_bytes < whole_bytes / 3
    assert 0.9 * part_bytes < part < part_bytes + ALLOWANCE
    assert whole > whole_bytes - part_bytes > part_bytes + ALLOWANCE  # what this would have seen of a model read as a whole

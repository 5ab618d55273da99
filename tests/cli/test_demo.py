"""`make demo` does what it says: right answers, a peer killed on the way, the same tokens."""

from __future__ import annotations

import pytest

from swarm.cli import demo


@pytest.mark.slow
def test_the_demo(capsys):
    assert demo.main([]) == 0
    said = capsys.readouterr().out
    assert said.count("as expected") == len(demo.PROMPTS)
    for words in ("killed pid", "took over layers 4:8", "longest gap between two tokens", "same tokens as undisturbed: yes", "Everything as it should be"):
        assert words in said

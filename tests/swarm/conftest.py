"""A small model, a prompt, and what an undisturbed run answers: for tests that disturb one."""

from __future__ import annotations

import pytest

from tests.swarm.models import greedy, save_llama

PROMPT = [72, 101, 108, 108, 111]
LENGTH = 400


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def expected(model):
    return greedy(model, PROMPT, LENGTH)

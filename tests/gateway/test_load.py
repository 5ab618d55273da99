"""Two hundred requests, sixteen at a time, whole and streamed, through a gateway over real processes, and a peer that dies halfway: nobody notices."""

from __future__ import annotations

import concurrent.futures
import time
from pathlib import Path

import pytest

import swarm
from swarm.demo import PROMPTS
from tests.gateway.test_openai import GatewayProcess, question

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

REQUESTS = 200
QUESTIONS = PROMPTS[:8]


def test_every_answer_is_complete_and_right_and_counted(tmp_path: Path) -> None:
    with swarm.LocalSwarm(swarm.demo_model(), layers=["0:4", "4:8", "8:12", "4:8"], dtype="float32") as local:
        gateway = GatewayProcess(local, tmp_path / "log", "--patience", "60")
        try:

            def one(at: int) -> tuple[str, str, int]:
                prompt, ask = QUESTIONS[at % len(QUESTIONS)], gateway.openai.with_options(timeout=300).chat.completions.create
                if at % 2:
                    chunks = list(ask(model="demo", messages=question(prompt), temperature=0, stream=True, stream_options={"include_usage": True}))
                    text, finish = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]), chunks[-2].choices[0].finish_reason
                    return text, finish, chunks[-1].usage.completion_tokens
                whole = ask(model="demo", messages=question(prompt), temperature=0)
                return whole.choices[0].message.content, whole.choices[0].finish_reason, whole.usage.completion_tokens

            with concurrent.futures.ThreadPoolExecutor(16) as pool:
                answers = [pool.submit(one, at) for at in range(REQUESTS)]
                while sum(answer.done() for answer in answers) < REQUESTS // 2:
                    time.sleep(0.05)
                local.peers[1].kill()
                for at, answer in enumerate(answers):
                    expected = QUESTIONS[at % len(QUESTIONS)].answer
                    assert answer.result() == (f" {expected}", "stop", len(expected) + 1)
        finally:
            gateway.process.kill()

"""`SwarmForCausalLM` beside the same model of transformers in one process: the same logits, hidden states and answers, whatever `generate` is asked to do."""

from __future__ import annotations

import gc

import pytest
import torch
from transformers import AutoTokenizer, DynamicCache, LlamaForCausalLM, LogitsProcessor, LogitsProcessorList, MaxLengthCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

import swarm
from swarm.errors import EmptyPrompt, UsageError
from tests.swarm.models import save_llama

CLOSE = {"atol": 1e-4, "rtol": 1e-4}
"""float32 sums that are taken in another order."""

PROMPTS = ["Hello", "To sort a list of numbers", "x"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def local(folder):
    with swarm.LocalSwarm(str(folder), layers=["0:2", "2:4", "4:6"]) as local:
        yield local


@pytest.fixture(scope="module")
def ours(folder, local):
    with swarm.SwarmForCausalLM.from_pretrained(str(folder), initial_peers=local.initial_peers) as model:
        yield model


@pytest.fixture(scope="module")
def whole(folder):
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def batch(folder):
    """Prompts of different lengths, padded on the left."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer(PROMPTS, return_tensors="pt", padding=True, return_token_type_ids=False)


def long_ids(count: int) -> torch.Tensor:
    return torch.tensor([[(7 * at + at * at) % 256 for at in range(count)]])


def sessions(model: swarm.SwarmForCausalLM) -> int:
    async def count(client) -> int:
        return len(client._sessions)

    return model.client.run(count)


@torch.no_grad()
def test_logits_of_every_position(ours, whole):
    ids = long_ids(300)
    torch.testing.assert_close(ours(ids).logits, whole(ids).logits, **CLOSE)
    assert ours(ids, logits_to_keep=3).logits.shape == (1, 3, whole.config.vocab_size)
    torch.testing.assert_close(ours(ids, logits_to_keep=3).logits, whole(ids).logits[:, -3:], **CLOSE)


@torch.no_grad()
def test_logits_in_several_windows(ours, whole, monkeypatch):
    monkeypatch.setattr("swarm.client.session.WINDOW", 7 * 4 * 257)
    ids = long_ids(40)
    torch.testing.assert_close(ours(ids).logits, whole(ids).logits, **CLOSE)


@torch.no_grad()
def test_hidden_states_of_every_position(ours, whole):
    ids = long_ids(80)
    expected = whole.model(ids).last_hidden_state
    torch.testing.assert_close(ours.hidden_states(ids).last_hidden_state, expected, **CLOSE)
    both = ours(ids, output_hidden_states=True)
    torch.testing.assert_close(both.hidden_states[-1], expected, **CLOSE)
    torch.testing.assert_close(both.logits, whole.lm_head(expected), **CLOSE)
    assert expected.abs().mean() > 0.1, "nothing was compared"


@torch.no_grad()
def test_a_padded_batch_and_its_loss(ours, whole, batch):
    theirs, mine = whole(**batch, position_ids=(batch.attention_mask.cumsum(-1) - 1).clamp(min=0)).logits, ours(**batch).logits
    seen = batch.attention_mask.bool()
    torch.testing.assert_close(mine[seen], theirs[seen], **CLOSE)
    assert not mine[~seen].any()
    ids = long_ids(20)
    torch.testing.assert_close(ours(ids, labels=ids).loss, whole(ids, labels=ids).loss, **CLOSE)


class NeverAn(LogitsProcessor):
    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        scores[:, self.token] = -float("inf")
        return scores


HOW = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True, "temperature": 0.8, "top_k": 30, "top_p": 0.9, "repetition_penalty": 1.2},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "sampled beams": {"num_beams": 2, "do_sample": True, "temperature": 0.7},
    "without a cache": {"do_sample": False, "use_cache": False},
    "processed": {"do_sample": False, "logits_processor": LogitsProcessorList([NeverAn(101), NeverAn(32)])},
    "stopped": {"do_sample": False, "stopping_criteria": StoppingCriteriaList([MaxLengthCriteria(30)])},
}


@pytest.mark.parametrize("how", HOW)
def test_a_batch_is_answered_as_by_the_model_in_one_process(ours, whole, batch, how):
    options = {"max_new_tokens": 16, "eos_token_id": None, "pad_token_id": 0, **HOW[how]}
    answers = []
    for model in ours, whole:
        torch.manual_seed(11)
        answers.append(model.generate(**batch, **options).tolist())
    assert answers[0] == answers[1]
    assert sessions(ours) == 0, "generate leaves nothing open"


def test_a_streamer_gets_what_comes(ours):
    class Seen(BaseStreamer):
        def __init__(self) -> None:
            self.pieces: list[list[int]] = []
            self.ended = False

        def put(self, value) -> None:
            self.pieces.append(value.flatten().tolist())

        def end(self) -> None:
            self.ended = True

    seen = Seen()
    out = ours.generate(long_ids(5), max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0, streamer=seen)
    assert seen.ended and [token for piece in seen.pieces for token in piece] == out[0].tolist() and len(seen.pieces) == 7


@torch.no_grad()
def test_a_cache_goes_on_where_it_was_and_goes_when_nobody_holds_it(ours, whole):
    ids = long_ids(20)
    first = ours(ids[:, :12], use_cache=True)
    assert first.past_key_values.get_seq_length() == 12 and sessions(ours) == 1
    second = ours(ids[:, 12:], past_key_values=first.past_key_values)
    torch.testing.assert_close(second.logits, whole(ids).logits[:, 12:], **CLOSE)
    second.past_key_values.crop(5)
    third = ours(ids[:, 9:12], past_key_values=second.past_key_values)
    torch.testing.assert_close(third.logits, whole(torch.cat([ids[:, :5], ids[:, 9:12]], 1)).logits[:, 5:], **CLOSE)
    assert sessions(ours) == 1
    del first, second, third
    gc.collect()
    ours.client.run(lambda client: client.refresh())
    assert sessions(ours) == 0


def test_an_answer_goes_on_when_a_peer_is_killed(folder, whole):
    """The logits that had not come home are asked of the peers that are left, and only those."""
    ids, options = long_ids(9), {"max_new_tokens": 30, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with swarm.LocalSwarm(str(folder), layers=["0:2", "2:4", "2:4", "4:6"]) as local:
        with swarm.SwarmForCausalLM.from_pretrained(str(folder), initial_peers=local.initial_peers) as model:

            class Killer(LogitsProcessor):
                def __init__(self) -> None:
                    self.calls = 0

                def __call__(self, input_ids, scores):
                    self.calls += 1
                    if self.calls == 8:

                        async def middle(client) -> str:
                            (session,) = client._sessions.values()
                            return session.route.hops[1].peer_id

                        victim = model.client.run(middle)
                        next(peer for peer in local.peers if peer.peer_id == victim).kill()
                    return scores

            killer = Killer()
            mine = model.generate(ids, logits_processor=LogitsProcessorList([killer]), **options)
    assert killer.calls == 30 and sum(peer.is_alive() for peer in local.peers) == 0
    assert mine.tolist() == whole.generate(ids, **options).tolist()


@torch.no_grad()
def test_with_own_ends(folder, local, whole):
    with swarm.SwarmForCausalLM.from_pretrained(str(folder), initial_peers=local.initial_peers, own_ends=True) as model:
        torch.testing.assert_close(model(long_ids(40)).logits, whole(long_ids(40)).logits, **CLOSE)


def test_what_cannot_be_is_said(ours, folder):
    with pytest.raises(UsageError, match=r"from_pretrained has no option initial_peer; did you mean initial_peers\?"):
        swarm.SwarmForCausalLM.from_pretrained(str(folder), initial_peer="/a")
    with pytest.raises(UsageError, match="attention weights"):
        ours(long_ids(3), output_attentions=True)
    with pytest.raises(UsageError, match="shape"):
        ours(torch.tensor([1, 2]))
    with pytest.raises(UsageError, match="leave out position_ids"):
        ours(long_ids(3), position_ids=torch.arange(3)[None])
    with pytest.raises(UsageError, match="give input_ids"):
        ours(inputs_embeds=torch.zeros(1, 3, 8), input_ids=None)
    for use in (ours, ours.generate):
        with pytest.raises(UsageError, match="a DynamicCache cannot be used; leave out past_key_values"):
            use(long_ids(3), past_key_values=DynamicCache())
    with pytest.raises(EmptyPrompt):
        ours(long_ids(3), attention_mask=torch.zeros(1, 3, dtype=torch.long))
    with ours.client.session() as session, pytest.raises(UsageError, match="read has no option frist; did you mean first"):
        next(session.read([1], frist=0))
    with ours.client.session() as session, pytest.raises(UsageError, match="'logits' or 'hidden'"):
        next(session.read([1], what="attentions"))

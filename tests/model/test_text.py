"""Text: pieces of an answer add up to the whole and never change, for the ways in which tokenizers spell; and the door to the tokenizer libraries."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from swarm import demo
from swarm.errors import EmptyPrompt, NotAModel, UsageError
from swarm.model.text import WINDOW, Text

CORPUS = [
    "the quick brown fox jumps over the lazy dog, and then 12 more",
    "Hello world! How are you?  Two spaces\nand lines",
    "naïve café 漢字 漢語 👍🏽 👍",
] * 4
SPECIAL = ["<s>", "</s>", "<|user|>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TEMPLATE = "{% for m in messages %}{% if m.role == 'bad' %}{{ raise_exception('no such role') }}{% endif %}<|user|>{{ m.content }}</s>{% endfor %}<s>"


def wrap(backend):
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    backend.add_tokens([AddedToken("<tool>", special=False)])
    return Text(PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>"))


def byte_level():
    """GPT-2, Llama 3, Qwen: every token is some bytes."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return wrap(backend)


def unigram():
    """T5, XGLM: pieces that begin with the space before them."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=120, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False))
    return wrap(backend)


def byte_fallback():
    """Llama 2, Mistral, Gemma: pieces as above, and single bytes for what has no piece."""
    pieces = ["<unk>", *BYTES, *sorted({letter for line in CORPUS for letter in line.replace(" ", "▁") if letter.isascii() or letter == "▁"})]
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "▁"), ("l", "l")]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces + ["".join(pair) for pair in merges]))}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return wrap(backend)


def word_piece():
    """BERT's way: whole words, and ## before what continues one."""
    vocab = {piece: i for i, piece in enumerate(["[UNK]", "he", "##llo", "##n", "world", ".", ",", "'", "s", "n't", "do", "not"])}
    backend = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    return wrap(backend)


KINDS = {kind.__name__: kind() for kind in (byte_level, unigram, byte_fallback, word_piece)}
every_kind = pytest.mark.parametrize("text", KINDS.values(), ids=KINDS.keys())

emoji = st.sampled_from(["👍🏽", "👩‍👩‍👧", "🇨🇭", "漢", "é", "\u0301", "\ufffd", "  ", "\n", "<|user|>", "<tool>"])
prose = st.lists(st.text(max_size=8) | emoji | st.sampled_from([" the", "the", " ", "Hello"]), max_size=25).map("".join)


def stream(text, ids):
    detokenizer = text.detokenizer()
    pieces = [detokenizer.feed(id) for id in ids]
    return [*pieces, detokenizer.finish()]


def check(text, ids):
    """Pieces add up to the whole, and whatever prefix was shown is a beginning of every later decoding."""
    pieces, whole = stream(text, ids), text.tokenizer.decode(ids, skip_special_tokens=True)
    assert "".join(pieces) == whole == text.decode(ids)
    shown = ""
    for end, piece in enumerate(pieces[:-1], start=1):
        shown += piece
        assert text.decode(ids[:end]).startswith(shown)


@every_kind
@settings(max_examples=60, deadline=None)
@given(prose)
def test_pieces_of_a_text_add_up(text, prompt):
    check(text, text.tokenizer.encode(prompt))


@every_kind
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_pieces_of_any_ids_add_up(text, data):
    """Ids that no text would give: halves of characters, stray bytes, special tokens inside, ids beyond the vocabulary."""
    check(text, data.draw(st.lists(st.integers(0, len(text.tokenizer) + 5), max_size=3 * WINDOW)))


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([0x41, 0x80, 0x8D, 0xBF, 0xC3, 0xE2, 0xF0, 0x9F, 0x91, 0xFF]), max_size=3 * WINDOW))
def test_pieces_of_broken_bytes_add_up(kind, stream_of_bytes):
    text = KINDS[kind]
    spell = dict(zip(range(256), BYTES, strict=True)) if kind == "byte_fallback" else byte_letters()
    check(text, [text.tokenizer.convert_tokens_to_ids(spell[byte]) for byte in stream_of_bytes])


def byte_letters():
    """How GPT-2 spells bytes: those that print as themselves, the others as letters from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def test_a_character_comes_out_whole_and_at_once():
    text = KINDS["byte_level"]
    ids = text.encode("🦊x")
    assert len(ids) > 3
    assert stream(text, ids) == [""] * (len(ids) - 2) + ["🦊", "x", ""]


def test_ordinary_words_come_out_at_once():
    text = KINDS["byte_fallback"]
    pieces = stream(text, text.encode("the hello"))
    assert "".join(pieces) == "the hello"
    assert all(pieces[:-1])


def test_several_ids_may_be_fed_at_once():
    text = KINDS["byte_level"]
    detokenizer, ids = text.detokenizer(), text.encode("Hello world 🦊")
    assert detokenizer.feed(ids[:3]) + detokenizer.feed(ids[3:]) + detokenizer.finish() == "Hello world 🦊"
    assert detokenizer.finish() == ""


def test_the_work_per_token_is_bounded(monkeypatch):
    """However long the answer, and however broken: a malicious head must not make its client decode ever longer windows."""
    text, seen = KINDS["byte_level"], []
    decode = text.decode
    monkeypatch.setattr(text, "decode", lambda ids: seen.append(len(ids)) or decode(ids))
    stray = text.tokenizer.convert_tokens_to_ids(byte_letters()[0x9F])
    detokenizer = text.detokenizer()
    assert detokenizer.feed([stray] * 2000) + detokenizer.finish() == "\ufffd" * 2000
    assert max(seen) <= WINDOW


def test_encode():
    text = KINDS["byte_level"]
    assert text.decode(text.encode("Hello")) == "Hello"
    assert all(type(id) is int for id in text.encode("Hello"))
    with pytest.raises(EmptyPrompt):
        text.encode("")
    with pytest.raises(UsageError, match="not valid Unicode text at character 3"):
        text.encode("caf\udce9")


def test_a_continued_text_gets_no_second_beginning():
    text = byte_level()
    bos = text.tokenizer.bos_token_id
    text.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    assert text.encode("Hello")[0] == bos
    assert text.encode("Hello", continues=True) == text.encode("Hello")[1:]


def test_chat_goes_through_the_models_own_template():
    text = byte_level()
    with pytest.raises(UsageError, match="no chat template; give it a plain prompt"):
        text.encode_chat([{"role": "user", "content": "Hello"}])
    text.tokenizer.chat_template = TEMPLATE
    ids = text.encode_chat([{"role": "user", "content": "Hello"}])
    assert text.tokenizer.decode(ids) == "<|user|>Hello</s><s>"
    assert all(type(id) is int for id in ids)
    with pytest.raises(UsageError, match="refuses these messages: no such role"):
        text.encode_chat([{"role": "bad", "content": "Hello"}])
    with pytest.raises(EmptyPrompt):
        text.encode_chat([])
    text.tokenizer.chat_template = "{{ 1 / 0 }}"
    with pytest.raises(UsageError, match="refuses these messages: division by zero; give others"):
        text.encode_chat([{"role": "user", "content": "Hello"}])


def test_where_the_tokenizer_lies_is_nobodys_business(tmp_path):
    KINDS["byte_level"].tokenizer.save_pretrained(tmp_path)
    text = Text.open(tmp_path)
    for template in (None, "{{ raise_exception('no') }}"):
        text.tokenizer.chat_template = template
        with pytest.raises(UsageError) as caught:
            text.encode_chat([{"role": "user", "content": "Hello"}])
        assert str(tmp_path) not in str(caught.value)


def test_stop_ids():
    text = KINDS["byte_level"]
    assert text.stop_ids() == (text.tokenizer.eos_token_id,)
    assert text.stop_ids(7) == (7,)
    assert text.stop_ids([9, 3, 9]) == (3, 9)
    assert Text(PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))).stop_ids() == ()


def test_open_reads_a_folder(tmp_path):
    KINDS["byte_level"].tokenizer.save_pretrained(tmp_path)
    text = Text.open(tmp_path)
    assert text.encode("Hello 🦊") == KINDS["byte_level"].encode("Hello 🦊")


@pytest.mark.parametrize("model", ["/nowhere/model", "./missing", "owner/name", "not a model!"])
def test_what_is_no_folder_is_never_asked_of_the_hub(monkeypatch, model):
    def connect(*_: object) -> None:
        raise AssertionError("went to the network")

    monkeypatch.setattr("socket.socket.connect", connect)
    with pytest.raises(NotAModel, match="holds no tokenizer that can be read"):
        Text.open(model)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"config.json": {"model_type": "llama"}},
        {"config.json": {"model_type": "llama"}, "tokenizer.json": "{bad"},
        {"tokenizer.json": {"version": "1.0", "model": {"type": "Nonsense"}}, "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"}},
        {"tokenizer_config.json": {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}, "evil.py": "raise SystemExit('ran')"},
    ],
    ids=lambda files: "+".join(files) or "empty",
)
def test_open_a_folder_without_a_tokenizer(tmp_path, files):
    for name, content in files.items():
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(NotAModel, match=r"no tokenizer|is empty") as caught:
        Text.open(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("written", ["h€llo 🐙", "ü"])
def test_single_tokens_tell_their_bytes_also_where_a_character_has_several(written):
    """Of the demo model each token is a byte, spelled as GPT-2 does."""
    text = Text.open(demo.path())
    spelled = [text.spelled(id) for id in text.encode(written)]
    assert b"".join(raw or b"" for _, raw in spelled).decode() == written and text.spelled(0) == ("<|eos|>", b"<|eos|>")


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
@pytest.mark.parametrize("written", ["the quick brown fox", "naïve 🦊 漢"])
def test_single_tokens_of_a_text_add_up_to_its_bytes(kind, written):
    text = KINDS[kind]
    spelled = [text.spelled(id) for id in text.encode(written)]
    assert b"".join(raw or b"" for _, raw in spelled).decode().strip() == written


@every_kind
def test_bytes_of_a_token_are_never_others_than_its_text(text):
    for id in range(len(text.tokenizer)):
        shown, raw = text.spelled(id)
        assert raw is None or raw.decode(errors="replace") == shown


def test_a_model_says_whether_it_chats():
    text = Text.open(demo.path())
    assert text.chats
    text.tokenizer.chat_template = None
    assert not text.chats

"""Encoding, decoding, incremental decoding and stop strings, against the tokenizers library and naive code."""

import json
import mmap
import random
from pathlib import Path
from typing import Any

import pytest
from checkpoints import copy_tiny
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from warpjet import LLM, ModelFormatError
from warpjet.text.stopping import StopStrings
from warpjet.text.tokenizer import Tokenizer

SEED = 20240807
TEXTS = ["Once upon a time", "日本語 👩‍👩‍👧 naïve", "  two\n\n  spaces ", "<|user|>hi<|end|>", "\u200b\x00é"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(copy_tiny(tmp_path_factory.mktemp("tokenizer") / "tiny"))


def sentencepiece_like(directory: Path, decoder: Any) -> Tokenizer:
    """A vocabulary as Llama 2's: byte tokens, and words with U+2581 for a space."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += ["\u2581", "\u2581\u2581", "\u2581the", "the", "\u2581a", "b\u2581c", "é", "日", "\u2581日", "<0xzz>", ","]
    backend = Backend(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[], byte_fallback=True))
    backend.add_special_tokens(["<s>", "</s>"])
    if decoder is not None:
        backend.decoder = decoder
    directory.mkdir()
    backend.save(str(directory / "tokenizer.json"))
    return Tokenizer(directory)


DECODERS = {
    "llama2": decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    ),
    "gemma": decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]),
    "metaspace": decoders.Metaspace(),
    "metaspace_never": decoders.Metaspace(prepend_scheme="never"),
    "strip_tokens": decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Strip(" ", 1, 0)]),
    "byte_level": decoders.ByteLevel(),
    "none": None,
}


def assert_incremental_is_exact(tokenizer: Tokenizer, seed: int, rounds: int) -> None:
    rng = random.Random(seed)
    for _ in range(rounds):
        # Half of the ids come from the first 280, where bytes and special tokens are.
        ids = [rng.randrange(rng.choice([280, tokenizer.vocab_size + 3])) for _ in range(rng.randrange(24))]
        skip = rng.random() < 0.5
        pieces = tokenizer.detokenizer(skip)
        text = "".join(pieces.push(i) for i in ids) + pieces.finish()
        assert text == tokenizer.decode(ids, skip), (seed, ids, skip)


def test_incremental_decoding_of_byte_level_bpe_equals_decoding_at_once(tiny: Tokenizer) -> None:
    assert_incremental_is_exact(tiny, SEED, 1500)


@pytest.mark.parametrize("name", DECODERS)
def test_incremental_decoding_equals_decoding_at_once(name: str, tmp_path: Path) -> None:
    assert_incremental_is_exact(sentencepiece_like(tmp_path / name, DECODERS[name]), SEED, 1000)


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives_a_round_trip(tiny: Tokenizer, text: str) -> None:
    ids = tiny.encode(text, add_special_tokens=False)
    pieces = tiny.detokenizer(skip_special_tokens=False)
    assert "".join(pieces.push(i) for i in ids) + pieces.finish() == text


def test_a_character_split_over_tokens_comes_whole(tiny: Tokenizer) -> None:
    ids = tiny.encode("👩", add_special_tokens=False)
    assert len(ids) > 1
    pieces = tiny.detokenizer()
    assert [pieces.push(i) for i in ids] == [""] * (len(ids) - 1) + ["👩"]


def test_special_tokens_are_added_and_skipped(tiny: Tokenizer) -> None:
    assert tiny.encode("hi")[0] == tiny.bos_token_id == 1
    assert tiny.encode("hi", add_special_tokens=False)[0] != 1
    assert tiny.decode(tiny.encode("hi")) == "hi"
    assert tiny.decode(tiny.encode("hi"), skip_special_tokens=False) == "<|bos|>hi"


@pytest.mark.parametrize("token_id", [-1, 3072, 2**31, 2**32, 2**70])
def test_an_id_outside_the_vocabulary_is_no_token_and_costs_no_memory(tiny: Tokenizer, token_id: int) -> None:
    assert tiny.convert_ids_to_tokens(token_id) is None and not tiny.is_special(token_id)
    assert tiny.detokenizer(context=[5, token_id]).finish() == ""
    assert token_id not in tiny._tokens


def test_a_piece_keeps_its_space(tmp_path: Path) -> None:
    tokenizer = sentencepiece_like(tmp_path / "sp", DECODERS["llama2"])
    token = tokenizer.token_id("\u2581the")
    assert token is not None
    assert tokenizer.decode([token]) == "the"
    assert tokenizer.piece(token) == " the"


def test_lone_surrogates_are_refused(tiny: Tokenizer) -> None:
    with pytest.raises(ValueError, match="surrogates"):
        tiny.encode("\ud800")


# --- F4: malformed tokenizers -----------------------------------------------------------------------------------------


def broken(tmp_path: Path, change: Any) -> Path:
    directory = copy_tiny(tmp_path / "tiny")
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return directory


def set_added(index: int, **values: Any) -> Any:
    return lambda content: content["added_tokens"][index].update(values)


F4_CASES = {
    "no_model": lambda c: c.pop("model"),
    "model_of_unknown_type": lambda c: c["model"].update(type="Magic"),
    "duplicate_id": set_added(1, id=0),
    "duplicate_content": set_added(1, content="<|pad|>"),
    "negative_id": set_added(0, id=-1),
    "id_is_text": set_added(0, id="0"),
    "gap_in_ids": lambda c: c["added_tokens"].append(dict(c["added_tokens"][0], id=9999, content="<|new|>")),
    "merge_out_of_vocabulary": lambda c: c["model"]["merges"].append(["zzqq", "qqzz"]),
    "vocabulary_is_a_list": lambda c: c["model"].update(vocab=[1, 2]),
    "decoder_without_type": lambda c: c.update(decoder={"pattern": 1}),
}


@pytest.mark.parametrize("name", F4_CASES)
def test_F4_malformed_tokenizer(name: str, tmp_path: Path) -> None:
    directory = broken(tmp_path, F4_CASES[name])
    with pytest.raises(ModelFormatError, match="tokenizer"):
        Tokenizer(directory)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"model": ' * 100_000])
def test_F4_tokenizer_json_is_not_json(text: str, tmp_path: Path) -> None:
    directory = copy_tiny(tmp_path / "tiny")
    (directory / "tokenizer.json").write_text(text)
    with pytest.raises(ModelFormatError, match=r"tokenizer\.json"):
        Tokenizer(directory)


def test_F4_missing_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="skip_tokenizer_init"):
        Tokenizer(tmp_path)


def test_F4_malformed_tokenizer_config(tmp_path: Path) -> None:
    directory = copy_tiny(tmp_path / "tiny")
    (directory / "tokenizer_config.json").write_text('{"bos_token": 3}')
    with pytest.raises(ModelFormatError, match="bos_token"):
        Tokenizer(directory)


def test_an_unknown_decoder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError, match="WordPiece"):
        Tokenizer(broken(tmp_path, lambda c: c.update(decoder={"type": "WordPiece", "prefix": "#", "cleanup": True})))


# --- Stop strings -----------------------------------------------------------------------------------------------------


def first_stop(text: str, stops: list[str]) -> tuple[int, str] | None:
    """By trying every prefix."""
    for end in range(1, len(text) + 1):
        if found := [stop for stop in stops if text[:end].endswith(stop)]:
            return end, max(found, key=len)
    return None


def test_stop_strings_are_found_wherever_the_text_is_cut() -> None:
    rng = random.Random(SEED)
    for _ in range(5000):
        text = "".join(rng.choice("abé") for _ in range(rng.randrange(25)))
        stops = ["".join(rng.choice("abé") for _ in range(rng.randrange(1, 5))) for _ in range(rng.randrange(1, 4))]
        include = rng.random() < 0.5
        checker, shown, stop, at = StopStrings(stops, include), "", None, 0
        while at < len(text) and stop is None:
            step = rng.randrange(4)
            piece, stop = checker.push(text[at : at + step])
            shown, at = shown + piece, at + step
            held = text[len(shown) : at] if stop is None else ""
            assert not held or any(s.startswith(held) and s != held for s in stops), (SEED, text, stops, held)
        if expected := first_stop(text, stops):
            end = expected[0] if include else expected[0] - len(expected[1])
            assert (stop, shown) == (expected[1], text[:end]), (SEED, text, stops)
        else:
            assert (stop, shown + checker.finish()) == (None, text), (SEED, text, stops)


def test_a_stop_string_that_ends_too_early_does_not_count() -> None:
    checker = StopStrings(["ab"])
    assert checker.push("ab", armed=False) == ("ab", None)
    assert checker.push("xa", armed=False) == ("x", None)
    assert checker.push("b", armed=True) == ("", "ab")


def test_a_megabyte_costs_linear_time() -> None:
    checker = StopStrings(["a" * 1000 + "b"])
    shown, stop = checker.push("a" * 1_000_000)
    assert (len(shown), stop) == (999_000, None)


# --- A continuation goes on from its prompt ---------------------------------------------------------------------------


def assert_continuation_is_exact(tokenizer: Tokenizer, seed: int, rounds: int) -> None:
    rng = random.Random(seed)
    for _ in range(rounds):
        # No byte tokens but for one character: half a run of bytes that is no UTF-8 is shown before it is known.
        ids = [rng.randrange(259, tokenizer.vocab_size) for _ in range(rng.randrange(1, 12))]
        if rng.random() < 0.5:
            at = rng.randrange(len(ids) + 1)
            ids[at:at] = [tokenizer.token_id(f"<0x{byte:02X}>") or 0 for byte in "日".encode()]
        cut, skip = rng.randrange(len(ids) + 1), rng.random() < 0.5
        pieces = tokenizer.detokenizer(skip, ids[:cut])
        text = "".join(map(pieces.push, ids[cut:])) + pieces.finish()
        assert tokenizer.decode_open(ids[:cut], skip) + text == tokenizer.decode(ids, skip), (seed, ids, cut, skip)


@pytest.mark.parametrize("name", DECODERS)
def test_a_prompt_and_its_continuation_are_decoded_as_one_text(name: str, tmp_path: Path) -> None:
    if name != "byte_level":  # written in another alphabet: below
        assert_continuation_is_exact(sentencepiece_like(tmp_path / name, DECODERS[name]), SEED, 500)


def test_a_character_may_begin_in_the_prompt_and_end_in_the_continuation(tiny: Tokenizer) -> None:
    ids = tiny.encode("Once 👩 日本", add_special_tokens=False)
    for cut in range(len(ids) + 1):
        pieces = tiny.detokenizer(context=ids[:cut])
        text = "".join(map(pieces.push, ids[cut:])) + pieces.finish()
        assert tiny.decode_open(ids[:cut]) + text == "Once 👩 日本"


def test_special_tokens_alone_begin_no_text(tmp_path: Path) -> None:
    tokenizer = sentencepiece_like(tmp_path / "sp", DECODERS["llama2"])
    bos, word = tokenizer.token_id("<s>"), tokenizer.token_id("▁the")
    assert bos is not None and word is not None
    for context, skip, expected in (([], True, "the"), ([bos], True, "the"), ([bos], False, " the")):
        pieces = tokenizer.detokenizer(skip, context)
        assert pieces.push(word) + pieces.finish() == expected


# --- Bytes and offsets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_of_tokens_joined_are_the_text(tiny: Tokenizer, text: str) -> None:
    ids = tiny.encode(text, add_special_tokens=False)
    assert b"".join(map(tiny.token_bytes, ids)) == text.encode()


def test_bytes_of_sentencepiece_tokens(tmp_path: Path) -> None:
    tokenizer = sentencepiece_like(tmp_path / "sp", DECODERS["llama2"])
    expected = {"▁the": b" the", "<0xE6>": b"\xe6", "日": "日".encode(), "<0xzz>": b"<0xzz>", "b▁c": b"b c"}
    for token, data in expected.items():
        token_id = tokenizer.token_id(token)
        assert token_id is not None
        assert tokenizer.token_bytes(token_id) == data


def assert_offsets_are_places(tokenizer: Tokenizer, ids: list[int], context: list[int]) -> None:
    pieces, offsets = tokenizer.detokenizer(context=context), tokenizer.text_offsets(context=context)
    at = [offsets.push(token) for token in ids]
    text = "".join(map(pieces.push, ids)) + pieces.finish()
    for token, offset in zip(ids, at, strict=True):
        piece = tokenizer.piece(token).lstrip() if offset == 0 else tokenizer.piece(token)
        assert tokenizer.is_special(token) or "\ufffd" in piece or text[offset:].lstrip().startswith(piece.lstrip())
    assert at == sorted(at) and offsets.offset == len(text)


@pytest.mark.parametrize("text", TEXTS)
def test_offsets_say_where_tokens_begin(tiny: Tokenizer, text: str) -> None:
    ids = tiny.encode(text, add_special_tokens=False)
    assert_offsets_are_places(tiny, ids, [])
    assert_offsets_are_places(tiny, [1, *ids, 6], tiny.encode("before"))


def test_offsets_of_bytes_that_are_shown_later(tmp_path: Path) -> None:
    tokenizer = sentencepiece_like(tmp_path / "sp", DECODERS["llama2"])
    ids = [tokenizer.token_id(t) or 0 for t in ("▁the", "<0xE6>", "<0x97>", "<0xA5>", ",", "</s>", "▁a")]
    offsets = tokenizer.text_offsets()
    assert [offsets.push(token) for token in ids] == [0, 3, 3, 3, 4, 5, 5]
    assert offsets.offset == len("the日, a")


# --- The names of Hugging Face's methods ------------------------------------------------------------------------------


def test_the_first_lines_of_a_model_card(llm: LLM) -> None:
    tokenizer = llm.get_tokenizer()
    ids = tokenizer.encode("Once upon")
    assert tokenizer("Once upon") == {"input_ids": ids, "attention_mask": [1] * len(ids)}
    assert tokenizer(["Once", "Once upon"])["input_ids"] == [tokenizer.encode("Once"), ids]
    assert len(tokenizer) == tokenizer.vocab_size == len(tokenizer.get_vocab())
    messages = [{"role": "user", "content": "hi"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|bos|><|user|>hi<|end|><|assistant|>"
    assert tokenizer.apply_chat_template(messages, add_generation_prompt=True) == tokenizer.encode(text, False)
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "<|bos|><|user|>hi<|end|>"
    assert tokenizer.apply_chat_template(messages, chat_template="{{ mood }}", tokenize=False, mood="x") == "x"
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|bos|>", "<|eos|>", "<|pad|>")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)
    assert tokenizer.convert_tokens_to_ids(["<|end|>", "<|eos|>", "no such"]) == [6, 2, None]
    assert tokenizer.convert_tokens_to_ids("<|end|>") == 6
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode("Once upon", False)) == tokenizer.tokenize("Once upon")
    assert tokenizer.batch_decode([[1381], [1381, 1845]]) == ["Once", "Once upon"]
    assert tokenizer.decode(1381) == "Once"


def test_a_tokenizer_without_a_template_says_so(tiny: Tokenizer) -> None:
    with pytest.raises(ValueError, match="chat_template="):
        tiny.apply_chat_template([{"role": "user", "content": "hi"}])


def test_where_memory_is_short_no_native_code_is_asked(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rust ends the process when it gets no memory."""

    def fail(*_: object, **__: object) -> None:
        raise OSError("no memory")

    tokenizer = llm.get_tokenizer()
    expected = tokenizer.encode("The fox")
    with monkeypatch.context() as patch:
        patch.setattr(mmap, "mmap", fail)
        with pytest.raises(MemoryError):
            tokenizer.encode("The fox")
        with pytest.raises(MemoryError):
            llm.generate("The fox")
    assert tokenizer.encode("The fox") == expected

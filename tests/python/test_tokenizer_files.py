"""What a tokenizer's files say together, over many layouts: ids and texts as transformers 4 and 5 give them."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from checkpoints import copy_tiny
from tokenizers import Tokenizer as Backend
from tokenizers.processors import ByteLevel, TemplateProcessing

from warpjet import LLM, ModelFormatError, SamplingParams
from warpjet.text.tokenizer import Tokenizer
from warpjet.text.tokenizer_files import read_json

BOS, EOS, END, ONCE, UPON = 1, 2, 6, 1381, 1845
NAMES = {"bos_token": "<|bos|>", "eos_token": "<|eos|>"}
FLAGS = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}


def write(directory: Path, name: str, value: Any) -> None:
    (directory / name).unlink(missing_ok=True)
    if value is not None:
        (directory / name).write_text(json.dumps(value))


# --- What encode() adds -----------------------------------------------------------------------------------------------

PROCESSORS = {
    "bos": (TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", BOS)]), [BOS, ONCE, UPON]),
    "end": (TemplateProcessing(single="$A <|end|>", special_tokens=[("<|end|>", END)]), [ONCE, UPON, END]),
    "both": (
        TemplateProcessing(single="<|bos|> $A <|eos|>", special_tokens=[("<|bos|>", BOS), ("<|eos|>", EOS)]),
        [BOS, ONCE, UPON, EOS],
    ),
    "bytes": (ByteLevel(trim_offsets=False), [ONCE, UPON]),
}
ADDED = [{}, *({f"add_{key}_token": on} for key in ("bos", "eos") for on in (True, False, None))]
CLASSES = ["PreTrainedTokenizerFast", "Qwen2Tokenizer", "LlamaTokenizerFast"]


def with_processor(directory: Path, name: str, config: dict[str, Any]) -> Path:
    copy_tiny(directory)
    backend = Backend.from_file(str(directory / "tokenizer.json"))
    backend.post_processor = PROCESSORS[name][0]
    backend.save(str(directory / "tokenizer.json"))
    write(directory, "tokenizer_config.json", NAMES | config)
    return directory


@pytest.mark.parametrize("processor", PROCESSORS)
def test_the_vocabulary_s_own_rules_say_what_is_added_to_a_text(processor: str, tmp_path: Path) -> None:
    for index, (kind, added) in enumerate(itertools.product(CLASSES, ADDED)):
        directory = with_processor(tmp_path / str(index), processor, {"tokenizer_class": kind} | added)
        assert Tokenizer(directory).encode("Once upon") == PROCESSORS[processor][1], (kind, added)


@pytest.mark.parity
@pytest.mark.parametrize("processor", PROCESSORS)
def test_what_is_added_to_a_text_is_what_transformers_adds(processor: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for index, added in enumerate(ADDED):
        directory = with_processor(tmp_path / str(index), processor, {"tokenizer_class": CLASSES[0]} | added)
        theirs = transformers.AutoTokenizer.from_pretrained(str(directory))
        assert Tokenizer(directory).encode("Once upon") == theirs.encode("Once upon"), added


# --- Added and named tokens -------------------------------------------------------------------------------------------


def listed(token_id: int, content: str, **flags: Any) -> dict[str, Any]:
    return {"added_tokens_decoder": {str(token_id): {"content": content, **FLAGS, **flags}}}


# name -> (<|end|> is special in tokenizer.json, tokenizer_config.json, special_tokens_map.json, added_tokens.json,
#          text, its ids, text of "Once<|end|> upon<|new|>")
LAYOUTS: dict[str, tuple[bool, Any, Any, Any, str, list[int], str]] = {
    "plain": (True, {}, None, None, "a <|end|> b", [72, 228, 6, 273], "Once upon"),
    "rstrip": (True, listed(6, "<|end|>", rstrip=True), None, None, "a <|end|> b", [72, 228, 6, 73], "Once upon"),
    "lstrip": (True, listed(6, "<|end|>", lstrip=True), None, None, "a <|end|> b", [72, 6, 273], "Once upon"),
    "special_by_list": (False, listed(6, "<|end|>"), None, None, "a <|end|> b", [72, 228, 6, 273], "Once upon"),
    "special_once": (True, listed(6, "<|end|>", special=False), None, None, "<|end|>", [6], "Once upon"),
    "not_special": (False, listed(6, "<|end|>", special=False), None, None, "<|end|>", [6], "Once<|end|> upon"),
    "named": (False, {"eos_token": "<|end|>"}, None, None, "<|end|>", [6], "Once upon"),
    "named_by_the_map": (False, {}, {"eos_token": "<|end|>"}, None, "<|end|>", [6], "Once upon"),
    "named_by_both": (False, {"eos_token": "<|end|>"}, {"eos_token": "<|eos|>"}, None, "a", [72], "Once upon"),
    "map_beside_a_list": (False, listed(6, "<|end|>", special=False), {"eos_token": "<|end|>"}, None, "a", [72], ""),
    "additional": (False, {"additional_special_tokens": ["<|end|>"]}, None, None, "a", [72], ""),
    "new": (True, listed(3072, "<|new|>"), None, None, "Once<|new|>", [ONCE, 3072], "Once upon"),
    "new_not_special": (True, listed(3072, "<|new|>", special=False), None, None, "a", [72], "Once upon<|new|>"),
    "new_by_name": (True, {"pad_token": "<|new|>"}, None, None, "Once<|new|>", [ONCE, 3072], "Once upon"),
    "new_in_a_file": (True, {}, None, {"<|new|>": 3072}, "Once<|new|>", [ONCE, 3072], "Once upon<|new|>"),
    "file_beside_a_list": (True, listed(6, "<|end|>"), None, {"<|end|>": 3072}, "<|end|>", [6], "Once upon"),
}


def with_layout(directory: Path, name: str) -> Path:
    copy_tiny(directory)
    special, config, names, added = LAYOUTS[name][:4]
    content = json.loads((directory / "tokenizer.json").read_text())
    next(token for token in content["added_tokens"] if token["id"] == END)["special"] = special
    write(directory, "tokenizer.json", content)
    write(directory, "tokenizer_config.json", {"tokenizer_class": CLASSES[0]} | NAMES | config)
    write(directory, "special_tokens_map.json", names)
    write(directory, "added_tokens.json", added)
    return directory


@pytest.mark.parametrize("name", LAYOUTS)
def test_flags_and_names_of_the_config_override_the_vocabulary_s(name: str, tmp_path: Path) -> None:
    text, ids, shown = LAYOUTS[name][4:]
    tokenizer = Tokenizer(with_layout(tmp_path / "tiny", name))
    assert tokenizer.encode(text, add_special_tokens=False) == ids
    if shown:
        assert tokenizer.decode([ONCE, END, UPON, 3072]) == shown
        pieces = tokenizer.detokenizer()
        assert "".join(map(pieces.push, [ONCE, END, UPON, 3072])) + pieces.finish() == shown


@pytest.mark.parity
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_give_the_ids_and_texts_of_transformers(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    directory = with_layout(tmp_path / "tiny", name)
    ours, theirs = Tokenizer(directory), transformers.AutoTokenizer.from_pretrained(str(directory))
    for text in ("a <|end|> b", "Once<|new|> upon a<|end|>b", " <|END|>"):
        for special in (True, False):
            assert ours.encode(text, special) == theirs.encode(text, add_special_tokens=special)
    if name not in ("additional", "named_by_both"):  # the two versions differ, or take one name of two
        for skip in (True, False):
            ids = [ONCE, END, UPON, 3072]
            assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip)
    assert (ours.eos_token_id, ours.bos_token_id, len(ours)) == (theirs.eos_token_id, theirs.bos_token_id, len(theirs))


# --- Malformed files --------------------------------------------------------------------------------------------------

MALFORMED: dict[str, Any] = {
    "name_is_a_number": {"tokenizer_config.json": {"bos_token": 3}},
    "name_of_the_map": {"special_tokens_map.json": {"bos_token": [1]}},
    "list_of_numbers": {"tokenizer_config.json": {"additional_special_tokens": [3]}},
    "list_is_text": {"tokenizer_config.json": {"additional_special_tokens": "<|end|>"}},
    "decoder_is_a_list": {"tokenizer_config.json": {"added_tokens_decoder": [1]}},
    "entry_without_content": {"tokenizer_config.json": {"added_tokens_decoder": {"6": {}}}},
    "id_is_text": {"tokenizer_config.json": {"added_tokens_decoder": {"x": {"content": "a"}}}},
    "gap_in_ids": {"tokenizer_config.json": listed(9999, "<|new|>")},
    "added_id_is_text": {"added_tokens.json": {"<|new|>": "3072"}},
    "surrogate_in_a_name": {"tokenizer_config.json": {"eos_token": "\ud800"}},
    "surrogate_in_an_added_token": {"tokenizer_config.json": listed(3072, "\udfff")},
    "surrogate_in_the_template": {"tokenizer_config.json": {"chat_template": "a\ud83d"}},
    "surrogate_as_a_key": {"special_tokens_map.json": {"\udc00": 1}},
}


@pytest.mark.parametrize("name", MALFORMED)
def test_F4_malformed_tokenizer_files(name: str, tmp_path: Path) -> None:
    directory = copy_tiny(tmp_path / "tiny")
    for file, value in MALFORMED[name].items():
        write(directory, file, value)
    with pytest.raises(ModelFormatError, match="token"):
        LLM(directory, device="cpu")


def test_a_pair_of_surrogates_is_one_character(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": "\\ud83d\\ude00"}')
    assert read_json(tmp_path / "a.json") == {"a": "\U0001f600"}


# --- The end of a text ------------------------------------------------------------------------------------------------


def test_the_tokenizer_s_end_of_text_ends_a_completion_beside_the_configs(tmp_path: Path) -> None:
    directory = copy_tiny(tmp_path / "tiny")
    write(directory, "tokenizer_config.json", NAMES | {"eos_token": "<|user|>"})
    write(directory, "special_tokens_map.json", None)
    with LLM(directory, device="cpu") as model:
        eos = model.get_tokenizer().eos_token_id
        assert eos is not None and eos not in model.get_model_info().eos_token_ids
        for more in ({}, {"logprobs": 1}, {"stop_token_ids": [9]}, {"n": 2, "temperature": 1.0}):
            params = SamplingParams(max_tokens=4, logit_bias={eos: 100.0}, **({"temperature": 0.0} | more))
            for output in model.generate("Once", params)[0].outputs:
                assert (output.text, output.finish_reason, output.stop_reason) == ("", "stop", None)
                assert output.token_ids == [eos]
        goes_on = SamplingParams(max_tokens=4, logit_bias={eos: 100.0}, temperature=0, ignore_eos=True)
        assert model.generate("Once", goes_on)[0].outputs[0].token_ids == [eos] * 4
        named = SamplingParams(max_tokens=4, logit_bias={eos: 100.0}, temperature=0, stop_token_ids=[eos])
        assert model.generate("Once", named)[0].outputs[0].stop_reason == eos

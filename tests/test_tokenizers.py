"""Tokenizers of models of images and text: which ids come of text, and what is kept of them."""

import copy
import json
import pickle

import pytest
import torch
from clip_cases import TEXTS, tokenizer_of_words, write_tokenizer

from sklearn_cbir.backbones._tokenizer import byte_pairs, hugging_face, tokenizer_of

open_clip = pytest.importorskip("open_clip")
pytest.importorskip("tokenizers")

PAD, END, UNKNOWN = 0, 1, 2  # ids of tokenizer_of_words


def ids_of(spec, texts):
    return tokenizer_of(json.loads(json.dumps(spec)))(texts)[0].tolist()


def read(folder, **text_config):
    """Spec of the tokenizer in a folder, as a model of length 8 has it."""

    def find(name):
        path = folder / name
        return path if path.exists() else None

    return hugging_face({"hf_tokenizer_name": "a/b", "context_length": 8} | text_config, find)


# Byte pairs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"clean": "canonicalize"}, {"clean": "whitespace", "additional_special_tokens": ["<x>"]}],
    ids=str,
)
@pytest.mark.parametrize("length", [16, 77])
def test_byte_pairs_are_those_of_open_clip(length, options):
    texts = [*TEXTS, "", "Ünïcödé 你好 😀 <x> <end_of_text>"]
    theirs = open_clip.SimpleTokenizer(context_length=length, **options)(texts)
    ours = tokenizer_of(byte_pairs({"context_length": length, "tokenizer_kwargs": options}))
    assert torch.equal(ours(texts)[0], theirs)


def test_byte_pairs_tell_whether_a_text_is_too_long():
    ours = tokenizer_of(byte_pairs({"context_length": 16}))
    assert not ours(["red " * 14, ""])[1]
    assert ours(["red " * 14, "red " * 15])[1]


def test_a_model_that_does_not_say_its_length_reads_77_tokens():
    assert tokenizer_of(byte_pairs({}))(["a"])[0].shape == (1, 77)


def test_options_that_draw_at_random_are_refused():
    with pytest.raises(ValueError, match="not known here, \\['reduction_mask'\\]"):
        byte_pairs({"tokenizer_kwargs": {"reduction_mask": "random"}})


# tokenizer.json ----------------------------------------------------------------------------------


def test_text_is_cleaned_ended_and_filled(tmp_path):
    spec = read(write_tokenizer(tmp_path), tokenizer_kwargs={"clean": "canonicalize"})
    assert ids_of(spec, ["A  red_Circle!", ""]) == [
        [3, 4, 6, END, PAD, PAD, PAD, PAD],
        [END] + [PAD] * 7,
    ]


def test_text_keeps_its_case_unless_the_model_says_otherwise(tmp_path):
    spec = read(write_tokenizer(tmp_path))
    assert ids_of(spec, [" A red&amp;"])[0][:4] == [UNKNOWN, 4, UNKNOWN, END]


def test_long_text_keeps_its_beginning_and_its_end_token(tmp_path):
    spec = read(write_tokenizer(tmp_path))
    assert ids_of(spec, ["red " * 7, "red " * 8]) == [[4] * 7 + [END]] * 2
    assert [tokenizer_of(spec)(["red " * n])[1] for n in (7, 8)] == [False, True]


@pytest.mark.parametrize("stated", ["</s>", {"__type": "AddedToken", "content": "</s>"}], ids=str)
def test_filling_is_by_the_token_that_the_files_state(tmp_path, stated):
    spec = read(write_tokenizer(tmp_path, pad_token=stated, padding_side="left"))
    assert ids_of(spec, ["red"]) == [[END] * 6 + [4, END]]


def test_filling_that_only_tokenizer_json_states_counts_too(tmp_path):
    tokenizer = tokenizer_of_words(pad="<fill>")
    tokenizer.enable_padding(direction="left", pad_id=0, pad_token="<fill>", length=3)
    tokenizer.enable_truncation(3)
    spec = read(write_tokenizer(tmp_path, tokenizer))
    assert ids_of(spec, ["a red circle"]) == [[PAD] * 4 + [3, 4, 6, END]]


def test_special_tokens_map_states_what_the_config_leaves_out(tmp_path):
    folder = write_tokenizer(tmp_path, tokenizer_of_words(pad="<fill>"))
    (folder / "special_tokens_map.json").write_text('{"pad_token": "<fill>"}')
    assert ids_of(read(folder), ["red"])[0][:4] == [4, END, PAD, PAD]


def test_separators_become_zero_where_the_model_strips_them(tmp_path):
    folder = write_tokenizer(tmp_path, pad_token="<unk>")
    spec = read(folder, tokenizer_kwargs={"strip_sep_token": True})
    assert ids_of(spec, ["red"]) == [[4, 0] + [UNKNOWN] * 6]


def test_clips_writes_first_last_and_class_token_itself(tmp_path):
    tokenizer = tokenizer_of_words(more=["<s>", "[CLS]"])  # ids 3 and 4
    spec = read(write_tokenizer(tmp_path, tokenizer), tokenizer_mode="clips")
    red = tokenizer.token_to_id("red")
    full = [3, *[red] * 5, END, 4]
    assert ids_of(spec, ["red", "red " * 5, "red " * 6]) == [
        [3, red, END, PAD, PAD, PAD, PAD, 4],
        full,
        full,
    ]
    assert [tokenizer_of(spec)(["red " * n])[1] for n in (5, 6)] == [False, True]


def test_files_that_lack_what_is_needed_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'a/b' has no tokenizer.json"):
        read(tmp_path)
    folder = write_tokenizer(tmp_path / "fill", tokenizer_of_words(pad="<fill>"))
    with pytest.raises(ValueError, match="'a/b' does not say which its pad token is"):
        read(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="fill/tokenizer.json is no tokenizer.json"):
        read(folder)


def test_a_tokenizer_is_copied_and_pickled_without_what_was_made_of_it(tmp_path):
    tokenizer = tokenizer_of(read(write_tokenizer(tmp_path)))
    wanted = tokenizer(TEXTS)[0]
    for again in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert "splitter" not in vars(again)
        assert torch.equal(again(TEXTS)[0], wanted)

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


def tokenizer_of_class(kind):
    """A small tokenizer in the manner of SigLIP, CLIPA or SigLIP 2, and what its config states."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    if kind == "T5":
        first = ["<pad>", "</s>", "<unk>"]
        model, trainer = models.Unigram(), trainers.UnigramTrainer
        split, ends, normalizer = pre_tokenizers.Metaspace(), ["$A", "</s>"], normalizers.NFKC()
        split = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), split])
        stated = {"pad_token": "</s>", "extra_ids": 0, "additional_special_tokens": []}
        options = {"clean": "canonicalize"}
    elif kind == "Bert":
        first = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        model, trainer = models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer
        split, ends = pre_tokenizers.BertPreTokenizer(), ["[CLS]", "$A", "[SEP]"]
        normalizer, stated = normalizers.BertNormalizer(), {}
        options = {"strip_sep_token": True}
    else:
        first = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
        first += [f"<0x{byte:02X}>" for byte in range(256)]
        model = models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
        trainer, split = trainers.BpeTrainer, pre_tokenizers.Split(" ", "merged_with_previous")
        ends, normalizer = ["$A", "<eos>"], normalizers.Replace(" ", "\u2581")
        stated = {"padding_side": "right", "add_bos_token": False, "add_eos_token": True}
        options = {"clean": "canonicalize"}
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.normalizer = split, normalizer
    more = {"unk_token": "<unk>"} if kind == "T5" else {}
    trainer = trainer(vocab_size=400, special_tokens=first, show_progress=False, **more)
    tokenizer.train_from_iterator([f"{text} {n}" for text in TEXTS[:3] for n in range(9)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=ends, special_tokens=[(t, first.index(t)) for t in ends if t != "$A"]
    )
    return tokenizer, stated, options


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
    with pytest.raises(ValueError, match="unknown options, \\['reduction_mask'\\]"):
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


@pytest.mark.parametrize("length", [8, 32])
@pytest.mark.parametrize("kind", ["T5", "Bert", "Gemma"])
def test_ids_are_those_of_transformers(tmp_path, kind, length):
    """Where that package is installed, which nothing here needs."""
    pytest.importorskip("transformers")
    tokenizer, stated, options = tokenizer_of_class(kind)
    spec = read(
        write_tokenizer(tmp_path, tokenizer, tokenizer_class=f"{kind}Tokenizer", **stated),
        tokenizer_kwargs=options,
        context_length=length,
    )
    texts = [*TEXTS, "", "</s> [SEP] <eos>", "Ünïcödé 你好 😀", "red_circle, 'blue'"]
    theirs = open_clip.tokenizer.HFTokenizer(str(tmp_path), context_length=length, **options)
    assert ids_of(spec, texts) == theirs(texts).tolist()


def test_files_that_lack_what_is_needed_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'a/b' has no tokenizer.json"):
        read(tmp_path)
    folder = write_tokenizer(tmp_path / "fill", tokenizer_of_words(pad="<fill>"))
    with pytest.raises(ValueError, match="'a/b' does not say which its pad token is"):
        read(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="fill/tokenizer.json is not a tokenizer.json"):
        read(folder)


def test_a_tokenizer_is_copied_and_pickled_without_what_was_made_of_it(tmp_path):
    tokenizer = tokenizer_of(read(write_tokenizer(tmp_path)))
    wanted = tokenizer(TEXTS)[0]
    for again in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert "splitter" not in vars(again)
        assert torch.equal(again(TEXTS)[0], wanted)

"""Make the small CLIP that tests and pages use: ``python make_shapes_clip.py``.

It is the CLIP of ``benchmarks/words.py`` with a narrower network for images and more drawings to
learn from, in half precision, and without the tokens that its sentences do not have: their rows of
the table would be four fifths of the file. The words that are left have other numbers, and the
vectors that they had.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from open_clip import SimpleTokenizer
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

HERE = Path(__file__).parent
sys.path.append(str(HERE.parents[2] / "benchmarks"))

import words  # noqa: E402

FILLING, START, UNKNOWN, END = "<pad>", "<start>", "<unk>", "<end>"
words.CONFIG = words.CONFIG | {"vision_cfg": words.CONFIG["vision_cfg"] | {"width": 8}}

with tempfile.TemporaryDirectory() as folder:
    words.train(Path(folder), n_epochs=14, n_images=4000)
    state = torch.load(Path(folder, "open_clip_pytorch_model.bin"))

whole = SimpleTokenizer()
known = sorted({word for pattern in words.SENTENCES for word in pattern.split() if word[0] != "{"})
known += [*words.SHAPES, *words.COLORS]
pairs = [whole.encode(word) for word in known]
assert all(len(numbers) == 1 for numbers in pairs)
# The end is the largest number, at which the text tower looks.
tokens = [FILLING, START, UNKNOWN, *known, END]
rows = [0, whole.sot_token_id, 0, *(numbers[0] for numbers in pairs), whole.eot_token_id]
state["token_embedding.weight"] = state["token_embedding.weight"][rows]
save_file(
    {name: value.half().contiguous() for name, value in state.items()},
    HERE / "open_clip_model.safetensors",
)

numbers = {token: number for number, token in enumerate(tokens)}
tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=UNKNOWN))
tokenizer.normalizer = normalizers.Lowercase()
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.add_special_tokens([FILLING, START, UNKNOWN, END])
tokenizer.post_processor = processors.TemplateProcessing(
    single=f"{START} $A {END}", special_tokens=[(START, 1), (END, len(tokens) - 1)]
)
tokenizer.save(str(HERE / "tokenizer.json"), pretty=False)
text = words.CONFIG["text_cfg"] | {"vocab_size": len(tokens), "hf_tokenizer_name": "shapes_clip"}
config = {"model_cfg": words.CONFIG | {"text_cfg": text}}
(HERE / "open_clip_config.json").write_text(json.dumps(config))

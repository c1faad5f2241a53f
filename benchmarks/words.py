"""How well words find drawn shapes: a CLIP of two small towers, trained on the spot.

    python benchmarks/words.py [--out FOLDER] [--epochs N]

It learns from shapes and sentences such as "a red circle", and is then asked for shapes that it has
not seen, by one sentence per class. Whoever sees colors alone reaches a mean average precision of
.5, whoever draws lots .13. FOLDER/clip is what ``"open_clip/local-dir:FOLDER/clip"`` names; of its
12 MB the table of 49,408 tokens takes 6.3.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from sklearn.pipeline import make_pipeline
from torch.nn import functional

from sklearn_cbir import CNNFeatureExtractor, NeighborsRetriever, Text
from sklearn_cbir.datasets import make_shapes

N_CLASSES = 8  # of four shapes in four colors, each in two
SHAPES, COLORS = ("circle", "square", "triangle", "cross"), ("red", "green", "blue", "yellow")
SENTENCES = ("a {color} {shape}", "the {shape} is {color}", "a photo of a {color} {shape}")
CONFIG = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
BATCH_SIZE, LR = 64, 3e-3


def sentences(pattern):
    """Return one sentence per class of `make_shapes`."""
    return [
        pattern.format(shape=SHAPES[label % 4], color=COLORS[(label + label // 4) % 4])
        for label in range(N_CLASSES)
    ]


def train(folder, n_epochs=12, n_images=2000, seed=0):
    """Train a CLIP, and write its config and weights into `folder`."""
    import open_clip

    torch.manual_seed(seed)
    model = open_clip.CLIP(**CONFIG)
    images, labels = make_shapes(n_images, n_classes=N_CLASSES, random_state=seed)
    mean, std = (
        torch.tensor(values).reshape(3, 1, 1)
        for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    pixels = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std
    tokenizer = open_clip.SimpleTokenizer(context_length=CONFIG["text_cfg"]["context_length"])
    texts = [tokenizer(sentences(pattern)) for pattern in SENTENCES]
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.05)
    n_steps = n_epochs * (n_images // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=n_steps)
    for step in range(n_steps):
        if step % (n_images // BATCH_SIZE) == 0:
            order = torch.randperm(n_images).split(BATCH_SIZE)
        chosen = order[step % (n_images // BATCH_SIZE)]
        rows = model.encode_image(pixels[chosen], normalize=True)
        words = model.encode_text(texts[step % len(texts)], normalize=True)
        # Images of one class have one sentence, so that each is compared once with every sentence.
        scores = model.logit_scale.exp() * rows @ words.T
        loss = functional.cross_entropy(scores, torch.from_numpy(labels)[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=4.6)  # CLIP's bound: a factor of 100
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG}))
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")


def found_by_words(folder, n_images=400, seed=1):
    """Mean average precision of one sentence per class among new images."""
    images, labels = make_shapes(n_images, n_classes=N_CLASSES, random_state=seed)
    search = make_pipeline(
        CNNFeatureExtractor(f"open_clip/local-dir:{folder}", weights="pretrained", loss=None),
        NeighborsRetriever(),
    ).fit(images, labels)
    return search.score([Text(text) for text in sentences(SENTENCES[0])], list(range(N_CLASSES)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    start = time.process_time()
    train(options.out / "clip", options.epochs)
    seconds = time.process_time() - start
    print(f"trained in {seconds:.0f} s; mAP by words {found_by_words(options.out / 'clip'):.3f}")


if __name__ == "__main__":
    main()

"""How well copies of photos are found: the radius of every descriptor, and what it finds.

    python benchmarks/near_duplicates.py [--photos clothing/train] [--holidays FOLDER] [--time]
        [--network]

Five copies of every photo are groups: as it is, JPEG of quality 25, a third of the size, brighter
by .3, and without a margin of 4 % on every side. Pairs of photos in one group, of `NearDuplicates`,
are compared with these.

1. The 40 photos of ``tests/data`` choose the radius of every descriptor: the smallest of the best
   F1.
2. 200 of PHOTOS, drawn by a seed, are read at this radius. None of them is among the 40.
3. Changes that are none of the five, to the 40 photos: how many copies are within this radius. What
   smaller radii find, and how many of all PHOTOS they put into groups, which are hardly copies.
4. HOLIDAYS, a folder of ``jpg/NNNNMM.jpg``, has other photos of scenes NNNN: how many pairs at this
   radius are of different scenes. Those of the same bytes in two scenes are left out.
5. With --time, 100,000 random codes, a fifth of which are near others, are grouped; and 100,000
   that are all near each other. Beside it stands one exact radius search of the same codes.
6. With --network, what the network of the extra `demo` finds, by radius, among the copies of the
   40 and of the 200.

`imagehash` is asked if it is installed. It is compared on what descriptors are given here,
and not needed. The run fails if PerceptualHash misses a bar, or has another radius than chosen.
"""

import argparse
import io
import time
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance
from scipy import fft
from scipy.spatial.distance import cdist

from _data import environment
from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.codes import hamming_radius, pack_codes
from sklearn_cbir.descriptors import GISTDescriptor, PerceptualHash
from sklearn_cbir.duplicates import NearDuplicates
from sklearn_cbir.features import CNNFeatureExtractor
from sklearn_cbir.images import check_images

SHIPPED = Path(__file__).parents[1] / "tests/data/clothing"
N_TEST, SEED = 200, 12
MARGIN = 0.04  # of every side
RADII = {"hamming": np.arange(1, 121), "cosine": np.arange(1, 41) / 200}
F1_SHIPPED, F1_TEST, ACROSS = 0.99, 0.97, 0.02  # bars of PerceptualHash, the last from above
NETWORK, NETWORK_RADII = "timm/tf_efficientnet_lite0", (0.05, 0.1, 0.15, 0.2)
SHOWN_RADII = (5, 10, 15, 20, 25, 30, 35, 40, 45)
N_TIMED, SEARCHES = 100_000, 3  # codes, and the bar: radius searches that grouping them may take
TIMED = {64: 10, 152: 30}  # bits, and the radius


# Descriptors: codes or rows of PIL images ---------------------------------------------------------


def plain_hash(photos):
    """The 63 bits of text books: 8 x 8 low frequencies but the mean, against their median."""
    gray = check_images(photos).read(slice(None), 32, resize_mode="squash")[..., :3] @ LUMINANCE
    low = fft.dctn(gray, axes=(1, 2))[:, :8, :8].reshape(len(photos), 64)[:, 1:]
    return (low > np.median(low, axis=1, keepdims=True)).astype(np.uint8)


LUMINANCE = np.array([0.299, 0.587, 0.114])


def peer(name, photos):
    """Bits of a function of imagehash."""
    import imagehash

    function = getattr(imagehash, name)
    return np.array([function(photo).hash.ravel() for photo in photos]).astype(np.uint8)


def descriptors():
    """Return ``{name: (function of photos, metric)}``."""
    found = {
        "PerceptualHash": (PerceptualHash().transform, "hamming"),
        "PerceptualHash(color=True)": (PerceptualHash(color=True).transform, "hamming"),
        "GISTDescriptor": (GISTDescriptor().transform, "cosine"),
        "63 bits against the median": (plain_hash, "hamming"),
    }
    try:
        import imagehash  # noqa: F401
    except ImportError:
        return found
    peers = {f"imagehash.{name}": (partial(peer, name), "hamming") for name in ("phash", "dhash")}
    return found | peers


# Photos -------------------------------------------------------------------------------------------


def copies(photo):
    """Return the five copies of a PIL image."""
    width, height = photo.size
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=25)
    across, down = round(MARGIN * width), round(MARGIN * height)
    return [
        photo,
        Image.open(file).convert("RGB"),
        photo.resize((width // 3, height // 3), Image.Resampling.LANCZOS),
        ImageEnhance.Brightness(photo).enhance(1.3),
        photo.crop((across, down, width - across, height - down)),
    ]


def without_margins(photo, left=0.0, top=0.0, right=0.0, bottom=0.0):
    """Return a PIL image without shares of its sides."""
    width, height = photo.size
    box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
    return photo.crop([round(edge) for edge in box])


def rotated(photo, degrees):
    return photo.rotate(degrees, Image.Resampling.BICUBIC, fillcolor="white")


def labeled(photo):
    """Return a PIL image with a white bar over the lowest tenth."""
    copy = photo.copy()
    copy.paste("white", (0, round(0.9 * photo.height), photo.width, photo.height))
    return copy


CHANGES = {
    "gray": lambda photo: photo.convert("L").convert("RGB"),
    "half the contrast": lambda photo: ImageEnhance.Contrast(photo).enhance(0.5),
    "a white bar over the lowest tenth": labeled,
    "rotated by 2 degrees": partial(rotated, degrees=2),
    "rotated by 5 degrees": partial(rotated, degrees=5),
    "without 8 % on one side": partial(without_margins, left=0.08),
    "without 6 % on every side": lambda photo: without_margins(photo, *[0.06] * 4),
    "without 8 % on every side": lambda photo: without_margins(photo, *[0.08] * 4),
    "without 12 % on every side": lambda photo: without_margins(photo, *[0.12] * 4),
}


def turned(photo, number):
    """Return one of the eight forms of a PIL image."""
    pixels = np.asarray(photo)
    return Image.fromarray(np.rot90(pixels[:, ::-1] if number > 3 else pixels, number % 4).copy())


def copies_of(paths):
    """Return the copies of photos, and which photo each is of."""
    photos = [copy for photo in opened(paths) for copy in copies(photo)]
    return photos, np.repeat(np.arange(len(paths)), 5)


def describe(photos):
    """Return ``{name: (rows, metric)}`` of all descriptors."""
    return {name: (of(photos), metric) for name, (of, metric) in descriptors().items()}


def opened(paths):
    return [Image.open(path).convert("RGB") for path in paths]


def drawn(folder):
    """Return the test photos: `N_TEST` of a folder, none of which ships."""
    shipped = {path.name for path in SHIPPED.glob("*/*.jpg")}
    paths = [path for path in sorted(folder.glob("*/*.jpg")) if path.name not in shipped]
    rows = np.random.default_rng(SEED).choice(len(paths), N_TEST, replace=False)
    return [paths[row] for row in sorted(rows)]


# Measures -----------------------------------------------------------------------------------------


def pairs_of(labels):
    """Return which pairs of rows are in one group, (n, n); -1 is alone."""
    return (labels[:, None] == labels) & (labels >= 0)[:, None]


def pair_scores(found, groups):
    """Return F1, precision and recall of the pairs of `found` among those of `groups`."""
    above = np.triu_indices(len(groups), 1)
    found, same = pairs_of(found)[above], pairs_of(groups)[above]
    right = (found & same).sum()
    precision, recall = right / max(found.sum(), 1), right / same.sum()
    return 2 * right / (found.sum() + same.sum()), precision, recall


def grouped(rows, metric, radius):
    return NearDuplicates(metric=metric, radius=radius).fit_predict(rows)


def mean_average_precision(rows, groups, metric):
    return NeighborsRetriever(metric=metric).fit(rows, groups).score()


def choose(rows, groups, metric):
    """Return the smallest radius of the best F1, that F1, and all radii of at least .99."""
    radii = RADII[metric]
    values = np.array([pair_scores(grouped(rows, metric, r), groups)[0] for r in radii])
    good = radii[values >= F1_SHIPPED]
    return radii[values.argmax()], values.max(), f"{good[0]:g} to {good[-1]:g}" if len(good) else ""


def across_scenes(paths, rows, metric, radius):
    """Return pairs within the radius of one scene and of two, and all pairs of two scenes."""
    scenes = np.array([int(path.name[:4]) for path in paths])
    content = [path.read_bytes() for path in paths]
    is_equal = np.array([[one == other for other in content] for one in content])
    near = cdist(rows, rows, metric) * (rows.shape[1] if metric == "hamming" else 1)
    above = np.triu(~is_equal, 1)
    same = scenes[:, None] == scenes
    found = (near <= radius + 1e-9) & above
    n_equal = np.triu(is_equal & ~same, 1).sum()
    return (found & same).sum(), (found & ~same).sum(), (above & ~same).sum(), n_equal


def random_codes(n, n_bits, rng):
    """Return codes of which a fifth differ from others in one bit of twenty, shuffled."""
    codes = rng.integers(0, 2, (n, n_bits), dtype=np.uint8)
    n_copies = n // 5
    copies = codes[rng.integers(n_copies, n, n_copies)]
    codes[:n_copies] = copies ^ (rng.random(copies.shape) < 0.05)
    return rng.permutation(codes)


def crowded_codes(n, n_bits, rng):
    """Return codes that differ from one of their number in four bits at most."""
    codes = np.zeros((n, n_bits), dtype=np.uint8)
    for _ in range(4):
        codes[np.arange(n), rng.integers(n_bits, size=n)] = 1
    return codes


def timed(function):
    """Return seconds of the processor, and what was returned."""
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def peak_memory(function):
    """Return the most MB that arrays of a call took at a time."""
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


# Tables -------------------------------------------------------------------------------------------


def table(head, lines):
    marks = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in marks)


def shipped_table(described, groups):
    """Return what the shipped photos choose: the table, and ``{name: (radius, F1)}``."""
    lines, chosen = [], {}
    for name, (rows, metric) in described.items():
        radius, best, good = choose(rows, groups, metric)
        chosen[name] = radius, best
        value = mean_average_precision(rows, groups, metric)
        unit = f"of {rows.shape[1]} bits" if metric == "hamming" else metric
        lines.append([name, f"{value:.3f}", f"{best:.3f}", f"{radius:g} {unit}", good])
    return table(["40 photos", "mAP", "F1", "smallest radius of it", "F1 ≥ .99"], lines), chosen


def test_table(described, groups, chosen):
    lines, scores = [], {}
    for name, (rows, metric) in described.items():
        scores[name] = pair_scores(grouped(rows, metric, chosen[name][0]), groups)
        value = mean_average_precision(rows, groups, metric)
        lines.append([name, f"{value:.3f}", *(f"{score:.3f}" for score in scores[name])])
    head = [f"{N_TEST} others", "mAP", "F1", "precision", "recall"]
    return table(head, lines), scores


def radii_table(descriptor, photos, folder):
    """Return which of the four changed copies are found by radius, and what a folder is then."""
    codes = descriptor.transform(photos).reshape(len(photos) // 5, 5, -1)
    distances = (codes[:, :1] != codes[:, 1:]).sum(axis=2)  # (n_photos, 4)
    head = [f"{descriptor}, radius", "JPEG 25", "a third", "brighter", "cropped"]
    paths = sorted(folder.glob("*/*.jpg")) if folder else []
    if paths:
        whole = descriptor.transform(list(map(str, paths)))
        head += [f"groups of {len(paths):,} photos", "photos in them", "largest"]
    lines = []
    for radius in SHOWN_RADII:
        line = [radius, *(f"{share:.2f}" for share in (distances <= radius).mean(axis=0))]
        if paths:
            labels = grouped(whole, "hamming", radius)
            sizes = np.bincount(labels[labels >= 0])
            line += [len(sizes), sizes.sum(), sizes.max(initial=0)]
        lines.append(line)
    return table(head, lines)


def network_table(sets):
    """Return what a network finds, by radius; `sets` are ``{name: paths of photos}``."""
    network = CNNFeatureExtractor(NETWORK, weights="packaged", loss=None)
    network.fit([np.zeros((64, 64, 3), dtype=np.uint8)])
    lines = []
    for name, paths in sets.items():
        photos, groups = copies_of(paths)
        rows = network.transform(photos)
        for radius in NETWORK_RADII:
            scores = pair_scores(grouped(rows, "cosine", radius), groups)
            lines.append([name, radius, *(f"{score:.3f}" for score in scores)])
    return table([NETWORK, "radius", "F1", "precision", "recall"], lines)


def nearest_lines(paths, codes, n_lines=5):
    """Return a line per two photos, not copies, that are nearest to each other."""
    n = len(paths)
    distances = (codes[:, None] != codes[None]).sum(axis=2).reshape(n, 5, n, 5).min(axis=(1, 3))
    pairs = sorted((distances[i, j], i, j) for j in range(n) for i in range(j))
    names = [f"{path.parent.name}/{path.name}" for path in paths]
    return [f"{distance} bits: {names[i]} {names[j]}" for distance, i, j in pairs[:n_lines]]


def equal_files(paths):
    """Return how many files have the bytes of another."""
    return len(paths) - len({path.read_bytes() for path in paths})


def changes_table(photos, chosen):
    """Return which shares of photos have their changed copies within the radius."""
    of_names = [name for name in descriptors() if "Hash" in name or "GIST" in name]
    lines = []
    for change, function in CHANGES.items():
        cells = []
        for name in of_names:
            describe, metric = descriptors()[name]
            rows, changed = describe(photos), describe([function(photo) for photo in photos])
            cells.append(
                f"{np.mean(distances_of_pairs(rows, changed, metric) <= chosen[name][0]):.2f}"
            )
        lines.append([change, *cells])
    return table(["40 photos, found", *of_names], lines)


def distances_of_pairs(rows, others, metric):
    scale = rows.shape[1] if metric == "hamming" else 1
    return np.diagonal(cdist(rows, others, metric)) * scale - 1e-9


def holidays_table(paths, described, chosen):
    lines, shares = [], {}
    for name, (rows, metric) in described.items():
        within, across, n_across, n_equal = across_scenes(paths, rows, metric, chosen[name][0])
        shares[name] = across / max(within + across, 1)
        cells = [within, across, f"{100 * shares[name]:.1f} %", f"{100 * across / n_across:.4f} %"]
        lines.append([name, *cells])
    head = ["Holidays", "pairs of one scene", "of two", "of two, among those found"]
    head.append("among all of two")
    note = f"{n_equal} more pairs have the same bytes in two scenes."
    return f"{table(head, lines)}\n\n{note}", shares


def turned_line(photos, groups):
    """Say what `PerceptualHash` finds if every copy is turned or mirrored, with that option."""
    forms = [turned(photo, number % 8) for number, photo in enumerate(photos)]
    found = NearDuplicates(PerceptualHash(turned=True)).fit_predict(forms)
    scores = (f"{score:.3f}" for score in pair_scores(found, groups))
    return f"All turned and mirrored: F1, precision and recall {', '.join(scores)}."


def times_table():
    """Return how long codes take to be grouped, and the largest number of searches in that time."""
    rng, lines, ratios = np.random.default_rng(SEED), [], []
    for n_bits, radius in TIMED.items():
        clusterer = NearDuplicates(metric="hamming", radius=radius)
        for kind, made in (("a fifth near others", random_codes), ("all near", crowded_codes)):
            codes = made(N_TIMED, n_bits, rng)
            packed = pack_codes(codes)
            clusterer.fit(codes[:100]), hamming_radius(packed[:5], packed, radius)  # compiles
            seconds, found = timed(partial(clusterer.fit, codes))
            search = "-"  # 10 billion pairs, that no memory holds
            if made is random_codes:
                search = timed(partial(hamming_radius, packed, packed, radius))[0]
                ratios.append(seconds / search)
                search = f"{search:.1f}"
            peak = f"{peak_memory(partial(clusterer.fit, codes)):.0f}"
            lines.append([n_bits, kind, len(found.groups_), search, f"{seconds:.1f}", peak])
    head = ["bits", f"{N_TIMED:,} codes", "groups", "radius search, s", "grouping, s", "peak, MB"]
    return table(head, lines), max(ratios)


class Run:
    """Tables, and the bars that were missed."""

    def __init__(self):
        self.missed = []
        self.chosen = {}

    def shipped(self, folder):
        paths = sorted(SHIPPED.glob("*/*.jpg"))
        photos, groups = copies_of(paths)
        text, self.chosen = shipped_table(describe(photos), groups)
        print(text)
        best = self.chosen["PerceptualHash"][1]
        self.check(best >= F1_SHIPPED, f"F1 {best:.3f} of the 40")
        for descriptor in (PerceptualHash(), PerceptualHash(color=True), GISTDescriptor()):
            name, default = repr(descriptor).removesuffix("()"), descriptor.near_duplicates[1]
            self.check(np.isclose(default, self.chosen[name][0]), f"the radius of {name}")
        print(f"\n{turned_line(photos, groups)}")
        print(f"\n{changes_table(opened(paths), self.chosen)}")
        for descriptor in (PerceptualHash(), PerceptualHash(color=True)):
            print(f"\n{radii_table(descriptor, photos, folder)}")

    def test(self, folder):
        paths = drawn(folder)
        photos, groups = copies_of(paths)
        described = describe(photos)
        text, scores = test_table(described, groups, self.chosen)
        print(f"\n{text}\n\n{turned_line(photos, groups)}")
        print(f"\n{equal_files(paths)} have the bytes of others. Nearest, that are no copies:")
        print(*nearest_lines(paths, described["PerceptualHash"][0]), sep="\n")
        value = scores["PerceptualHash"][0]
        self.check(value >= F1_TEST, f"F1 {value:.3f} of {N_TEST}")

    def holidays(self, folder):
        paths = sorted(folder.glob("jpg/*.jpg"))
        text, shares = holidays_table(paths, describe(opened(paths)), self.chosen)
        print(f"\n{text}")
        share = shares["PerceptualHash"]
        self.check(share < ACROSS, f"{100 * share:.1f} % of pairs across scenes")

    def network(self, folder):
        sets = {"40 photos": sorted(SHIPPED.glob("*/*.jpg"))}
        if folder:
            sets[f"{N_TEST} others"] = drawn(folder)
        print(f"\n{network_table(sets)}")

    def times(self):
        text, ratio = times_table()
        print(f"\n{text}")
        self.check(ratio <= SEARCHES, f"{ratio:.1f} radius searches of time")

    def check(self, holds, what):
        if not holds:
            self.missed.append(what)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, help="folder of CLASS/*.jpg")
    parser.add_argument("--holidays", type=Path, help="folder of jpg/*.jpg")
    parser.add_argument("--time", action="store_true", help="time 100,000 codes")
    parser.add_argument("--network", action="store_true", help="ask the network of [demo], too")
    options = parser.parse_args(arguments)
    run = Run()
    run.shipped(options.photos)
    if options.photos:
        run.test(options.photos)
    if options.holidays:
        run.holidays(options.holidays)
    if options.network:
        run.network(options.photos)
    if options.time:
        run.times()
    where = environment()
    print(f"\nCommit {where['commit']}, {where['date']}, {where['cpu']}.")
    if run.missed:
        raise SystemExit(f"Missed: {', '.join(run.missed)}.")


if __name__ == "__main__":
    main()

"""Tiny folders of drawn images in the layouts of the papers' data sets."""

import io

import numpy as np
from PIL import Image
from scipy.io import savemat

from sklearn_cbir.datasets import make_shapes


def drawings(n, seed=0, n_classes=4):
    """Return images uint8 (n, 32, 32, 3) and class numbers, every class about equally often."""
    images, y = make_shapes(n, image_size=32, random_state=seed)
    return images, np.unique(y, return_inverse=True)[1] % n_classes


def encoded(image, kind="JPEG"):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(image, "PNG" if path.suffix == ".png" else "JPEG"))


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows))


def cifar10(folder):
    """One file of JPEG streams, as the benchmarks read."""
    content = {}
    for part, n in (("train", 120), ("test", 200)):
        images, y = drawings(n, seed=n)
        streams = [encoded(image) for image in images]
        content[f"jpeg_{part}"] = np.frombuffer(b"".join(streams), dtype=np.uint8)
        content[f"offset_{part}"] = np.cumsum([0, *map(len, streams)])
        content[f"y_{part}"] = y
    np.savez(folder / "cifar10.npz", **content)
    return folder / "cifar10.npz"


def cifar10_batches(folder):
    """The binary version of CIFAR-10, the one that is distributed."""
    for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        images, y = drawings(60 if i == 5 else 24, seed=i)
        planes = images.transpose(0, 3, 1, 2).reshape(len(y), -1)
        rows = np.c_[y, planes].astype(np.uint8)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    return folder


def svhn(folder):
    for part, n in (("train", 60), ("test", 20)):
        images, y = drawings(n, seed=n)
        content = {"X": images.transpose(1, 2, 3, 0), "y": (y + 1)[:, None]}
        savemat(folder / f"{part}_32x32.mat", content)
    return folder


def photos(folder, n=12):
    images, y = drawings(2 * n)
    for i, (image, label) in enumerate(zip(images, y)):
        part = "train" if i < n else "validation"
        save(image, folder / part / str(label) / f"{i}.png")
    return folder


def nuswide(folder, n=160):
    images, y = drawings(n)
    names = [f"sea/{i:04d}.jpg" for i in range(n)]
    for name, image in zip(names, images):
        save(image, folder / "Flickr" / name)
    lines(folder / "ImageList" / "Imagelist.txt", (name.replace("/", "\\") for name in names))
    for i in range(81):
        column = (y == i) | (y == i - 1) if i < 4 else np.zeros(n, dtype=bool)
        column |= np.arange(n) % 21 == i  # so that 21 labels are frequent enough to be drawn
        lines(folder / "Groundtruth" / "AllLabels" / f"Labels_c{i:02d}.txt", column.astype(int))
    return folder


def mirflickr(folder, n=160):
    images, y = drawings(n)
    for i, image in enumerate(images):
        save(image, folder / "mirflickr" / f"im{i + 1}.jpg")
    for i in range(24):
        members = np.flatnonzero((y == i % 4) | (y == (i + 1) % 4)) + 1
        lines(folder / "mirflickr25k_annotations_v080" / f"label{i:02d}.txt", members)
        if i < 14:  # prominent in every other photo
            lines(folder / "mirflickr25k_annotations_v080" / f"label{i:02d}_r1.txt", members[::2])
    return folder


def cub(folder, n=48, n_classes=8):
    images, y = drawings(n)[0], np.arange(n) % n_classes
    names = [f"{label + 1:03d}.Bird/{i}.jpg" for i, label in enumerate(y)]
    for name, image in zip(names, images):
        save(image, folder / "images" / name)
    lines(folder / "images.txt", (f"{i + 1} {name}" for i, name in enumerate(names)))
    lines(folder / "image_class_labels.txt", (f"{i + 1} {c + 1}" for i, c in enumerate(y)))
    lines(folder / "train_test_split.txt", (f"{i + 1} {i % 2}" for i in range(n)))
    lines(folder / "classes.txt", (f"{c + 1} {c + 1:03d}.Bird" for c in range(n_classes)))
    return folder


def cars(folder, n=48, n_classes=8):
    images = drawings(n)[0]
    fields = ["relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test"]
    rows = []
    for i, image in enumerate(images):
        save(image, folder / f"car_ims/{i:06d}.jpg")
        rows.append((f"car_ims/{i:06d}.jpg", 1, 1, 9, 9, 1 + i % n_classes, i % 2))
    names = np.array([[f"Car {c}" for c in range(n_classes)]], dtype=object)
    annotations = np.array([rows], dtype=[(name, object) for name in fields])
    savemat(folder / "cars_annos.mat", {"annotations": annotations, "class_names": names})
    return folder


def sop(folder, n=48, n_classes=8):
    images = drawings(n)[0]
    files = {"train": [], "test": []}
    for i, image in enumerate(images):
        product, name = 1 + i % n_classes, f"chair_final/{i}_0.JPG"
        save(image, folder / name)
        part = "train" if product <= n_classes // 2 else "test"
        files[part].append(f"{i + 1} {product} 1 {name}")
    for part, rows in files.items():
        lines(folder / f"Ebay_{part}.txt", ["image_id class_id super_class_id path", *rows])
    return folder


def shopee(folder, n=60, n_classes=15):
    images = drawings(n)[0]
    rows = ["posting_id,image,image_phash,title,label_group"]
    for i, image in enumerate(images):
        save(image, folder / "train_images" / f"{i}.jpg")
        rows.append(f"train_{i},{i}.jpg,0,Offer {i},{1000 + i % n_classes}")
    lines(folder / "train.csv", rows)
    return folder


def oxford5k(folder, prefix="oxc1_", stem="keble_{:06d}"):
    images, y = drawings(16)
    names = [stem.format(i) for i in range(16)]
    for name, image in zip(names, images):
        save(image, folder / f"{name}.jpg")
    for place in range(2):
        members = np.flatnonzero(y == place)
        query, *others = (names[i] for i in members)
        found = {"good": [query, *others[1:]], "ok": [], "junk": others[:1]}
        lines(folder / f"place_{place + 1}_query.txt", [f"{prefix}{query} 2 2 30 28"])
        for kind, of_kind in found.items():
            lines(folder / f"place_{place + 1}_{kind}.txt", of_kind)
    return folder


def paris6k(folder):
    return oxford5k(folder, prefix="", stem="paris_eiffel_{:06d}")


def holidays(folder, n=12):
    images = drawings(n)[0]
    for i, image in enumerate(images):
        save(image, folder / f"{100000 + 100 * (i // 3) + i % 3}.jpg")
    return folder


def grocery(folder, n=48, n_classes=8, first=37):
    """Test photos of products below and from 41 on, and the list of them."""
    images = drawings(n)[0]
    rows = ["path,fine,coarse"]
    for i, image in enumerate(images):
        product = first + i % n_classes
        save(image, folder / "test" / f"{i}.jpg")
        rows.append(f"test/{i}.jpg,{product},{product // 4}")
    lines(folder / "test.csv", rows)
    return folder


def whole_grocery(folder, n=96):
    """Photos of products below and from 41 on, in coarse classes of two, in all official parts."""
    products = range(28, 52)
    head = "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int)"
    rows = [f"Product {i},{i},Coarse {i // 2},{i // 2}" for i in range(52)]
    lines(folder / "classes.csv", [head, *rows])
    images = drawings(n)[0]
    listed = {"train": [], "val": [], "test": []}
    for i, image in enumerate(images):
        product, part = products[i % len(products)], ("train", "test")[i // len(products) % 2]
        save(image, folder / part / f"{i}.jpg")
        listed[part].append(f"{part}/{i}.jpg, {product}, {product // 2}")
    save(images[0], folder / "val" / "0.jpg")
    listed["val"].append("val/0.jpg, 30, 15")
    for part, names in listed.items():
        lines(folder / f"{part}.txt", names)
    return folder


def fashion(folder, n=160):
    """One file of JPEG bytes and labels of three kinds, as `load_fashion_multilabel` reads."""
    images, y = drawings(n)
    photos = [encoded(image) for image in images]
    kinds = {"subCategory": y, "articleType": y // 2, "colorgroup": np.arange(n) % 3}
    labels = {
        f"{kind}={value}": of == value for kind, of in kinds.items() for value in np.unique(of)
    }
    content = {
        "jpeg": np.frombuffer(b"".join(photos), dtype=np.uint8),
        "ends": np.cumsum([len(photo) for photo in photos]),
        "labels": np.array([*labels.values()], dtype=np.uint8).T,
        "names": np.array([*labels]),
        "files": np.array([f"{i}.jpg" for i in range(n)]),
    }
    np.savez(folder / "fashion.npz", **content)
    return folder / "fashion.npz"

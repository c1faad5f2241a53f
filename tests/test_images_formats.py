"""Real photos: formats, sizes and what a file of another kind is called."""

import subprocess
import sys

from PIL import features

from sklearn_cbir.images import readable_extensions


def test_the_endings_of_all_formats_that_can_be_read_are_known():
    endings = readable_extensions()
    assert endings == tuple(sorted(endings))
    assert {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif"} < {*endings}
    assert (".avif" in endings) == features.check("avif")
    assert ".heic" in endings  # pi-heif is of the test extra
    assert not {".eps", ".pdf", ".ico", ".psd"} & {*endings}


def test_heic_is_left_out_without_an_opener_and_read_with_any_that_is_registered():
    program = """
import sys
sys.modules["pi_heif"] = None
from PIL import Image, ImageFile
from sklearn_cbir.images import readable_extensions
print(".heic" in readable_extensions(), ".own" in readable_extensions())
class Own(ImageFile.ImageFile):
    format = "OWN"
Image.register_open("OWN", Own, lambda head: head.startswith(b"own"))
Image.register_extension("OWN", ".own")
print(".own" in readable_extensions())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False", "True"]

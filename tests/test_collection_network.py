"""A collection is not written over a network, whose locks its table cannot rely on."""

import os
import sys

import pytest
from PIL import Image

from sklearn_cbir.collection import PhotoCollection, _network
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.descriptors import GISTDescriptor

IMAGES, _ = make_shapes(3, random_state=0)
MOUNTS = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 27 0:50 / /home rw shared:7 master:3 - nfs4 server:/home rw,vers=4.2
41 40 8:1 / /home/ann/disk rw - fuseblk /dev/sdb1 rw
42 27 0:51 / /media/my\040photos rw - cifs //box/photos rw
43 27 0:52 / /auto rw - autofs systemd-1 rw
44 43 0:53 / /auto rw - nfs server:/auto rw
45 27 0:54 / /ssh rw - fuse.sshfs me@box:/ rw
46 27 0:55 / /host rw - 9p drvfs rw
47 27 0:56 / /layers rw - overlay overlay rw
48 27 0:57 / /vm rw - virtiofs share rw
49 27 0:58 / /over rw - nfs server:/over rw
50 27 8:2 / /over rw - ext4 /dev/sdc rw
"""


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("/data/photos", "ext4"),
        ("/home", "nfs4"),
        ("/home/ann/photos/.cbir", "nfs4"),
        ("/home/ann/disk/photos", "fuseblk"),
        ("/homely", "ext4"),
        ("/media/my photos/.cbir", "cifs"),
        ("/media/my", "ext4"),
        ("/auto/x", "nfs"),  # what is mounted over the mount point
        ("/over/x", "ext4"),
        ("/ssh", "fuse.sshfs"),
    ],
)
def test_the_longest_mount_point_says_what_a_folder_is_on(place, kind):
    assert _network.kind_at(place, _network.linux_mounts(MOUNTS)) == kind


@pytest.mark.skipif(sys.platform != "linux", reason="it reads what Linux says")
@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("/home/nobody/.cbir", "nfs4"),
        ("/ssh/x", "fuse.sshfs"),
        ("/host/x", None),
        ("/layers/x", None),
        ("/vm/x", None),
        ("/home/ann/disk/x", None),
        ("/data", None),
    ],
)
def test_what_containers_and_disks_use_is_no_network(monkeypatch, place, kind):
    monkeypatch.setattr(_network, "_mountinfo", lambda: MOUNTS)
    assert _network.network_file_system(place) == kind


@pytest.mark.parametrize("text", ["", "nonsense\n- -\n", "1 2 3\n"])
def test_a_system_that_says_nothing_is_trusted(text):
    assert _network.kind_at("/home", _network.linux_mounts(text)) is None


def test_macos_lists_its_mounts_in_another_way():
    text = (
        "/dev/disk3s1s1 on / (apfs, sealed, local, read-only)\n"
        "//ann@box/my (old) photos on /Volumes/my (old) photos (smbfs, nodev, nosuid)\n"
        "map auto_home on /System/Volumes/Data/home (autofs, automounted)\n"
    )
    mounts = _network._macos_mounts(text)
    assert _network.kind_at("/Volumes/my (old) photos/a", mounts) == "smbfs"
    assert _network.kind_at("/Users/ann", mounts) == "apfs"


@pytest.mark.parametrize(
    ("drive", "is_share"),
    [
        ("\\\\box\\photos", True),
        ("\\\\?\\UNC\\box\\photos", True),
        ("Z:", True),
        ("\\\\?\\Z:", True),
        ("C:", False),
        ("\\\\?\\C:", False),
        ("", False),
    ],
)
def test_windows_knows_shares_by_their_paths_and_drives(monkeypatch, drive, is_share):
    monkeypatch.setattr(os.path, "splitdrive", lambda path: (drive, path))
    monkeypatch.setattr(_network, "_drive_type", lambda root: {"Z:\\": 4, "C:\\": 3}[root])
    assert (_network._of_windows("photos") is not None) == is_share


def on_share(monkeypatch, folder):
    """Let a folder lie on a share."""
    share = f"2 1 0:9 / {os.path.realpath(folder)} rw - nfs4 s:/ rw\n"
    text = f"1 0 8:1 / / rw - ext4 /dev/sda rw\n{share}"
    monkeypatch.setattr(_network, "_mountinfo", lambda: text)


@pytest.fixture
def photos(tmp_path):
    for number, image in enumerate(IMAGES):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


@pytest.mark.skipif(sys.platform != "linux", reason="it reads what Linux says")
def test_photos_may_lie_on_a_share_and_the_collection_may_not(photos, tmp_path, monkeypatch):
    on_share(monkeypatch, photos)
    with pytest.raises(OSError, match=r"network file system \(nfs4\).*create\(path=\.\.\.\)"):
        PhotoCollection.create(photos / ".cbir", photos, GISTDescriptor())
    assert not (photos / ".cbir").exists()
    with PhotoCollection.create(tmp_path / "c", photos, GISTDescriptor()) as collection:
        assert collection.sync().added == 3


@pytest.mark.skipif(sys.platform != "linux", reason="it reads what Linux says")
def test_a_collection_on_a_share_is_read_and_not_written(photos, monkeypatch):
    with PhotoCollection.create(photos / ".cbir", photos, GISTDescriptor()) as collection:
        collection.sync()
    on_share(monkeypatch, photos)
    before = sorted(os.listdir(photos / ".cbir"))
    with pytest.raises(OSError, match=r"network file system \(nfs4\).*open\(read_only=True\)"):
        PhotoCollection.open(photos / ".cbir")
    with PhotoCollection.open(photos / ".cbir", read_only=True) as collection:
        assert collection.search(IMAGES[1:2], k=1)[0][0].path == str(photos / "1.png")
        assert sorted(os.listdir(photos / ".cbir")) == before  # no log beside it
    (photos / ".cbir" / "collection.sqlite-wal").write_bytes(b"commits")
    with pytest.raises(PermissionError, match="its last commits are in"):
        PhotoCollection.open(photos / ".cbir", read_only=True)

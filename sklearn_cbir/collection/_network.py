"""Which file system a folder is on: over a network, the locks and the log of SQLite do not hold."""

import os
import re
import subprocess
import sys

# What containers and virtual machines share with their host (9p, virtiofs) locks as its disk does.
OVER_NETWORK = frozenset(
    (
        *("nfs", "nfs3", "nfs4", "cifs", "smb3", "smbfs", "afs", "afpfs", "coda", "ncpfs"),
        *("davfs", "webdav", "ftp", "fuse.davfs", "fuse.curlftpfs", "fuse.gvfsd-fuse"),
        *("fuse.sshfs", "fuse.rclone", "fuse.s3fs", "fuse.goofys", "fuse.mount-s3", "fuse.gcsfuse"),
        *("ceph", "glusterfs", "lustre", "beegfs", "gpfs", "orangefs", "pvfs2", "panfs", "wekafs"),
        *("fuse.ceph", "fuse.glusterfs", "fuse.juicefs", "fuse.mfs", "fuse.seaweedfs"),
    )
)
MACOS_LINE = re.compile(r".* on (?P<place>/.*) \((?P<kind>[^,)]+)[^)]*\)")
REMOTE_DRIVE = 4  # of GetDriveTypeW


def check_is_local(folder: str) -> None:
    """Raise if a folder is on a network file system."""
    if kind := network_file_system(folder):
        raise OSError(
            f"{folder!r} is on a network file system ({kind}), where SQLite's locks and log are "
            "not reliable. Put the collection into a folder on a disk of this machine, with "
            "create(path=...) or --index; the photos may stay on the share. You can copy a "
            "collection from a share as a whole, or read it with open(read_only=True)."
        )


def network_file_system(folder: str) -> str | None:
    """Return the kind of network file system that a folder is on, None for any other."""
    place = os.path.realpath(folder)  # what is not there yet is where its parent is
    if sys.platform == "win32":
        return _of_windows(place)
    mounts = _macos_mounts(_mount()) if sys.platform == "darwin" else linux_mounts(_mountinfo())
    kind = kind_at(place, mounts)
    return kind if kind in OVER_NETWORK else None


def kind_at(place: str, mounts: list[tuple[str, str]]) -> str | None:
    """Return the kind of file system at a place: that of the longest mount point, the last one."""
    above = [(len(point), at) for at, (point, _) in enumerate(mounts) if _is_in(place, point)]
    return mounts[max(above)[1]][1] if above else None


def _is_in(place: str, point: str) -> bool:
    return place == point or place.startswith(point.rstrip("/") + "/")


def linux_mounts(text: str) -> list[tuple[str, str]]:
    """Return mount points and kinds of a text as in ``/proc/self/mountinfo``, see ``proc(5)``."""
    mounts = []
    for line in text.splitlines():
        before, _, behind = line.partition(" - ")
        fields, kind = before.split(" "), behind.split(" ")[0]
        if len(fields) > 4 and kind:
            mounts.append((_unescaped(fields[4]), kind))
    return mounts


def _unescaped(text: str) -> str:
    """Return a mount point in which blanks and their like stand as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _mountinfo() -> str:
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:  # another Unix, or no /proc
        return ""


def _macos_mounts(text: str) -> list[tuple[str, str]]:
    """Return mount points and kinds of a text as ``mount`` prints it on macOS."""
    found = [MACOS_LINE.fullmatch(line) for line in text.splitlines()]
    return [(match["place"], match["kind"].strip()) for match in found if match]


def _mount() -> str:
    try:
        done = subprocess.run(
            ["/sbin/mount"], capture_output=True, text=True, errors="surrogateescape", timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _of_windows(place: str) -> str | None:
    """Return what a place on Windows is if it is on a share."""
    drive = os.path.splitdrive(place)[0].replace("/", "\\")
    if drive.startswith("\\\\?\\UNC\\"):
        return "a share"
    if drive.startswith("\\\\") and drive[2:4] not in ("?\\", ".\\"):
        return "a share"
    letter = drive[-2:]
    return "a drive of a share" if letter and _drive_type(f"{letter}\\") == REMOTE_DRIVE else None


def _drive_type(root: str) -> int:
    import ctypes

    try:
        return getattr(ctypes, "windll").kernel32.GetDriveTypeW(root)  # noqa: B009
    except (AttributeError, OSError):
        return 0  # not known

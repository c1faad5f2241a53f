"""The words of the shell: commands, options, and help with examples."""

import argparse
from importlib import import_module
from typing import NoReturn

ABOUT = """Search your photos by a photo or by words.

  cbir index ~/Pictures          once: read all photos
  cbir search photo.jpg          photos that look like this one
  cbir sync                      another day: add what is new
  cbir serve                     a page to search by clicking
"""
CODES = """exit codes: 0 found or done; 1 nothing found, or check has found damage; 2 error;
130 stopped by Ctrl-C. CBIR_DEBUG=1 or --debug shows where an error comes from.
The index is looked for in --index DIR, in the folder that is given, and then upwards
from the working folder, or from the photo. `cbir COMMAND --help` has the options of a command.
"""
WHERE = """conditions (--where, several must all hold):
  folder=holiday                 in that folder, or below
  folder=holiday,work            in one of several; a comma in a name is \\,
  taken=2023  taken=2023-05      in that year, month or day
  taken=2023..2024-05            both ends included; either may be left out
  width=1000..  height=..800     in pixels
  name=sea.jpg  label=shoes      label= takes those without one
"""
EXAMPLES = {
    "index": """examples:
  cbir index ~/Pictures
  cbir index ~/Pictures --features gist            no network, no download
  cbir index ~/Pictures --backbone mobilenet_v2 --weights weights.pt
  cbir index ~/Pictures --backbone open_clip/ViT-B-32    can be searched by words
  cbir index ~/shop --labels folder --exclude drafts
  cbir index ~/a /mnt/b --index ~/photo-index      two folders
""",
    "sync": """examples:
  cbir sync
  cbir sync ~/Pictures --retry     try again what could not be read
""",
    "search": """examples:
  cbir search photo.jpg
  cbir search a dog on the beach
  cbir search photo.jpg -k 50 --sheet found.png
  cbir search photo.jpg --where folder=holiday --where taken=2023..2024
  cbir search photo.jpg -0 | xargs -0r cp -t found/

"""
    + WHERE,
    "like": """examples:
  cbir like 17
  cbir like 17 230 --unlike 41     numbers are the second column of `cbir search`

"""
    + WHERE,
    "duplicates": """examples:
  cbir duplicates
  cbir duplicates --radius 15 --sheet groups.png
  cbir duplicates --others -0 | xargs -0r mv -t ~/twice     all but the first of each group

Nothing is deleted. The first of each group is the one to keep.

which --radius:
  index --features phash         bits: 30 (default); 15 for thousands of product photos
  index --features gist          cosine distance: 0.035 (default)
  index of a network             cosine distance: look at pairs in `cbir search`, from 0.1 on;
                                 it finds fewer copies than phash

"""
    + WHERE,
    "score": """examples:
  cbir score
  cbir score --metric precision@10 --where folder=shoes
  cbir score --per-class           one label a line, the lowest first

"""
    + WHERE,
    "info": """examples:
  cbir info
  cbir info --unreadable
  cbir info ~/Pictures --json
""",
    "serve": """examples:
  cbir serve
  cbir serve ~/Pictures --port 9000 --no-browser
  cbir serve --host 192.168.1.5    others may ask too, with the token; there is no encryption

From another machine, use a tunnel: ssh -L 8642:localhost:8642 MACHINE
""",
    "check": """example:
  cbir check && echo fine
""",
    "compact": """example:
  cbir compact
""",
    "relocate": """examples:
  cbir relocate /mnt/photos --index ~/photo-index
  cbir relocate /mnt/b --of /media/b --index ~/photo-index
""",
    "export": """examples:
  cbir export photos.csv
  cbir export - | head
  cbir export rows.npz             arrays: rows, number, path, ...
  cbir export search.cbir          for sklearn_cbir.persistence.load
""",
}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all errors of `cbir`."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and end."""
        from sklearn_cbir.cli._printing import tell

        tell(f"cbir: {message}. See {self.prog} --help.")
        self.exit(2)


def build_parser() -> Parser:
    """Return the parser of all commands."""
    parser = Parser(
        prog="cbir",
        description=ABOUT,
        epilog=CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    version = import_module("sklearn_cbir").__version__
    parser.add_argument("--version", action="version", version=f"cbir {version}")
    _add_common(parser, {"index": None, "quiet": False, "debug": False})
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    one = _command(commands, "index", "make the index of a folder of photos")
    one.add_argument(
        "folders", metavar="FOLDER", nargs="+", help="photos are taken from anywhere below"
    )
    _add_making(one)
    one = _command(commands, "sync", "add what is new, changed, moved and deleted")
    _add_folder(one)
    _add_retry(one)
    one.add_argument("--json", action="store_true", help="print what was done as JSON")

    one = _command(commands, "search", "find photos by a photo or by words")
    one.add_argument(
        "query",
        metavar="PHOTO|WORDS",
        nargs="+",
        help="a photo if it exists, contains / or ends like a photo; otherwise words",
    )
    kind = one.add_mutually_exclusive_group()
    kind.add_argument(
        "--photo", action="store_true", help="take it as a photo, whatever it looks like"
    )
    kind.add_argument("--text", action="store_true", help="these are words")
    _add_number_of_results(one)
    _add_asking(one)

    one = _command(commands, "like", "find photos similar to some in the index")
    one.add_argument("numbers", metavar="NUMBER", nargs="+", type=int, help="liked photos")
    one.add_argument(
        "--unlike", metavar="NUMBER", nargs="+", type=int, default=[], help="disliked photos"
    )
    _add_number_of_results(one)
    _add_asking(one)

    one = _command(commands, "duplicates", "find duplicates and near-duplicates")
    _add_folder(one)
    one.add_argument(
        "--radius", type=float, help="largest distance between two duplicates; see below"
    )
    one.add_argument(
        "--others", action="store_true", help="leave out the first of each group, to be kept"
    )
    _add_asking(one)

    one = _command(commands, "score", "measure how well photos find others with their label")
    _add_folder(one)
    one.add_argument("--metric", default="map", help="such as map or precision@10 (default: map)")
    one.add_argument("--per-class", action="store_true", help="one score per label, lowest first")
    _add_where(one)
    one.add_argument("--json", action="store_true", help="print JSON")

    one = _command(commands, "info", "say what the index is")
    _add_folder(one)
    one.add_argument("--unreadable", action="store_true", help="list what cannot be read, and why")
    _add_form(one)
    one = _command(commands, "serve", "open a page to search by clicking")
    _add_folder(one)
    one.add_argument(
        "--host",
        default="127.0.0.1",
        help="address of this machine to listen at (default: 127.0.0.1, only this machine)",
    )
    one.add_argument("--port", type=_port, default=8642, help="port; 0 takes a free one")
    one.add_argument(
        "--name",
        metavar="HOST",
        action="append",
        default=[],
        help="another name of the server; may be repeated",
    )
    one.add_argument(
        "--no-token",
        dest="token",
        action="store_false",
        help="let in everybody who reaches the server; only on this machine",
    )
    one.add_argument(
        "--no-browser", dest="browser", action="store_false", help="print the address alone"
    )
    one = _command(commands, "check", "look for damage of the index, byte by byte")
    _add_folder(one)
    one = _command(commands, "compact", "remove the rows of deleted photos")
    _add_folder(one)
    one = _command(
        commands, "relocate", "set where the photos are, after they moved without the index"
    )
    one.add_argument("place", metavar="FOLDER", nargs="?", help="where the photos are now")
    one.add_argument("--uri", metavar="ADDRESS", help="where the rows are now, if in Milvus")
    one.add_argument("--of", metavar="OLD", help="their old folder, if there are several")
    one = _command(commands, "export", "write what the index knows to a file")
    one.add_argument(
        "out", metavar="OUT", help="a file that ends in .csv, .json, .npz or .cbir; - prints CSV"
    )
    one.add_argument("--force", action="store_true", help="overwrite an existing file")
    return parser


def _command(commands: argparse._SubParsersAction, name: str, about: str) -> Parser:
    one = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=EXAMPLES[name],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    # Without defaults: what stands before the command holds unless it is said again.
    _add_common(one, dict.fromkeys(["index", "quiet", "debug"], argparse.SUPPRESS))
    return one


def _add_common(parser: argparse.ArgumentParser, defaults: dict[str, object]) -> None:
    parser.add_argument(
        "--index", metavar="DIR", default=defaults["index"], help="where the index is"
    )
    parser.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        default=defaults["quiet"],
        help="print results and errors alone",
    )
    parser.add_argument(
        "--debug",
        action="store_true",
        default=defaults["debug"],
        help="show where an error comes from",
    )


def _add_making(one: argparse.ArgumentParser) -> None:
    """Add the options of a new index."""
    one.add_argument("--backbone", metavar="NAME", help="a network, such as mobilenet_v2")
    one.add_argument(
        "--weights", metavar="FILE|TAG", help="its weights (default: the published ones)"
    )
    one.add_argument(
        "--features",
        choices=("gist", "phash"),
        help="no network: compare whole photos, or find near-duplicates",
    )
    one.add_argument("--extractor", metavar="FILE", help="an estimator or pipeline that was saved")
    one.add_argument("--trust", action="store_true", help="open a pickle, which may run any code")
    one.add_argument(
        "--labels",
        metavar="folder|FILE",
        help="top folders as labels, or a CSV file with the columns path and label",
    )
    one.add_argument("--label-column", metavar="NAME", help="another column of that file")
    one.add_argument(
        "--exclude", metavar="PATTERN", action="append", help="names to leave out; may be repeated"
    )
    one.add_argument(
        "--dtype", choices=("float16", "float32"), help="how rows are stored (default: float16)"
    )
    one.add_argument("--follow-links", action="store_true", help="follow links to photos, folders")
    one.add_argument(
        "--uri", metavar="ADDRESS", help="keep the rows in Milvus: a server, or a file in .db"
    )
    one.add_argument("--device", help="where the network computes, such as cpu or cuda")
    _add_retry(one)


def _add_retry(one: argparse.ArgumentParser) -> None:
    one.add_argument("--retry", action="store_true", help="try again what could not be read")
    one.add_argument("--threads", type=_at_least_1, help="how many threads compute")


def _add_folder(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "folder", metavar="FOLDER", nargs="?", help="folder of photos with an index, or an index"
    )


def _add_number_of_results(one: argparse.ArgumentParser) -> None:
    one.add_argument("-k", type=_at_least_1, default=10, help="number of results (default: 10)")


def _add_asking(one: argparse.ArgumentParser) -> None:
    _add_where(one)
    one.add_argument("--sheet", metavar="FILE", help="draw the results, such as to found.png")
    _add_form(one)


def _add_where(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--where",
        metavar="COLUMN=VALUE",
        action="append",
        help="which photos may be found; see below",
    )


def _add_form(one: argparse.ArgumentParser) -> None:
    form = one.add_mutually_exclusive_group()
    form.add_argument(
        "--json", dest="form", action="store_const", const="json", help="one JSON object a line"
    )
    form.add_argument(
        "-0", "--null", dest="form", action="store_const", const="null",
        help="only paths, unchanged, each ended by NUL"
    )  # fmt: skip
    one.set_defaults(form="text")


def _port(text: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() else -1
    if not 0 <= number < 2**16:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, a number from 0 to 65535")
    return number


def _at_least_1(text: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return number

"""The order of the examples: what most readers come for stands first."""

ORDER = (
    "search_a_folder.py",
    "train_on_labels.py",
    "tune_a_search.py",
)
COMMANDS = ("index_photos.py", "search_photos.py")  # they take options, and are not rendered


class InOrder:
    """What sphinx-gallery sorts the examples by; it is made with their folder."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, name):
        return ORDER.index(name)

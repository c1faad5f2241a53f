"""The order of the examples: what most readers come for stands first."""

ORDER = (
    "search_a_folder.py",
    "train_on_labels.py",
    "tune_a_search.py",
    "look_at_mistakes.py",
    "shrink_to_codes.py",
    "recognize_new_products.py",
    "search_several_labels.py",
    "find_the_same_object.py",
    "write_a_loss.py",
    "use_a_loss_of_another_library.py",
    "find_duplicates.py",
    "search_with_words.py",
    "keep_a_folder_up_to_date.py",
    "search_20000_rows.py",
)
COMMANDS = ("index_photos.py", "search_photos.py")  # they take options, and are not rendered


class InOrder:
    """What sphinx-gallery sorts the examples by; it is made with their folder."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, name):
        return ORDER.index(name)

"""Images with labels: any folder, data sets as they are distributed, and drawn shapes.

Nothing is downloaded, and paths stay paths until an estimator reads them.
"""

from sklearn_cbir._validation import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "_drawings": ["load_drawings"],
        "_folders": ["load_image_folder"],
        "_landmarks": ["crop_images", "load_holidays", "load_oxford5k", "load_paris6k"],
        "_multilabel": ["load_mirflickr", "load_nuswide"],
        "_pixels": ["load_cifar10", "load_svhn"],
        "_products": ["load_cars", "load_cub", "load_shopee", "load_sop"],
        "_shapes": ["make_shapes"],
        "_walk": ["IGNORED_NAMES"],
    },
)

from sklearn_cbir.datasets._drawings import load_drawings as load_drawings
from sklearn_cbir.datasets._fashion import load_fashion_multilabel as load_fashion_multilabel
from sklearn_cbir.datasets._folders import load_image_folder as load_image_folder
from sklearn_cbir.datasets._grocery import load_grocery as load_grocery
from sklearn_cbir.datasets._landmarks import (
    crop_images as crop_images,
    load_holidays as load_holidays,
    load_oxford5k as load_oxford5k,
    load_paris6k as load_paris6k,
)
from sklearn_cbir.datasets._multilabel import (
    load_mirflickr as load_mirflickr,
    load_nuswide as load_nuswide,
)
from sklearn_cbir.datasets._pixels import load_cifar10 as load_cifar10, load_svhn as load_svhn
from sklearn_cbir.datasets._products import (
    load_cars as load_cars,
    load_cub as load_cub,
    load_shopee as load_shopee,
    load_sop as load_sop,
)
from sklearn_cbir.datasets._shapes import make_shapes as make_shapes
from sklearn_cbir.datasets._walk import IGNORED_NAMES as IGNORED_NAMES

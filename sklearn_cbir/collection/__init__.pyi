from sklearn_cbir.collection._collection import PhotoCollection as PhotoCollection
from sklearn_cbir.collection._hits import Hit as Hit
from sklearn_cbir.collection._sync import SyncReport as SyncReport

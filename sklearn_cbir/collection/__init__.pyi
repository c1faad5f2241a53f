from sklearn_cbir.collection._collection import Hit as Hit, PhotoCollection as PhotoCollection
from sklearn_cbir.collection._sync import SyncReport as SyncReport

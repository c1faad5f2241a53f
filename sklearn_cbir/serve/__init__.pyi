from sklearn_cbir.serve._app import create_app as create_app
from sklearn_cbir.serve._run import run as run

"""`python -m sklearn_cbir` is the command `cbir`."""

from sklearn_cbir.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

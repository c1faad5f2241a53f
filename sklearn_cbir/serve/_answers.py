"""Answers: JSON in one form, and errors as one sentence with the way out."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response


class Failure(Exception):
    """What ends a request: a status, and one sentence for people.

    Parameters
    ----------
    status : int
        The status of the answer, from 400 on.

    message : str
        What is wrong, and the way out.

    headers : dict of str to str, default=None
        More headers of the answer.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers


def as_json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer in ASCII: names that are no text of Unicode go through it too."""
    body = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    kept = {"Cache-Control": "no-store", **(headers or {})}
    return Response(body.encode("ascii"), status, kept, media_type="application/json")


def as_error(failure: Failure) -> Response:
    """Return the answer of a request that failed."""
    return as_json({"error": failure.message}, failure.status, failure.headers)

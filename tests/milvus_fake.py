"""A Milvus server in memory, as far as the package asks one, which remembers what it was asked."""

import ast
import re
from collections import Counter

import numpy as np
import pytest

pymilvus = pytest.importorskip("pymilvus")

MOST = 16_384  # results of a search, of which no server gives more
FILTERS = {ast.LtE: np.less_equal, ast.GtE: np.greater_equal, ast.In: np.isin}


class Hits(list):
    """What a server found for one query: keys, values, and what else was asked for."""

    def __init__(self, keys, values, rows):
        self.ids, self.distances = keys.tolist(), values.tolist()
        super().__init__({"id": key, "entity": {"row": row}} for key, row in zip(self.ids, rows))


class FakeClient:
    """Answers as `pymilvus.MilvusClient` does; refuses what a server refuses.

    `calls` holds, in order, the names of methods and their keyword arguments. `fail` maps names
    of methods to errors, each raised once; `shift` takes the true values of a search, and returns
    them as a server would have rounded them.
    """

    def __init__(self, shift=None):
        self.tables, self.calls, self.fail = {}, [], {}
        self.shift = shift or (lambda query, rows, values: values)

    def __getattribute__(self, name):
        method = super().__getattribute__(name)
        if name.startswith("_") or name in ("close", "shift") or not callable(method):
            return method

        def asked(*arguments, timeout=None, **options):
            assert timeout is None or timeout > 0
            self.calls.append((name, {**options, "timeout": timeout}))
            if self.fail.get(name):
                raise self.fail[name].pop(0)
            return method(*arguments, **options)

        return asked

    def _counts(self):
        return Counter(name for name, _ in self.calls)

    def _options(self, method):
        return [options for name, options in self.calls if name == method]

    def _table(self, name):
        if name not in self.tables:
            raise pymilvus.MilvusException(100, f"collection not found: {name}")
        return self.tables[name]

    def close(self):
        """Say nothing."""

    def list_collections(self):
        return list(self.tables)

    def has_collection(self, name):
        return name in self.tables

    def describe_collection(self, name):
        kinds = pymilvus.DataType
        is_binary = self._table(name)["metric"] == "HAMMING"
        return {
            "fields": [
                {"name": "key", "type": kinds.INT64},
                {"name": "row", "type": kinds.BINARY_VECTOR if is_binary else kinds.FLOAT_VECTOR},
            ]
        }

    def load_collection(self, name):
        assert name in self.tables

    def drop_collection(self, name):
        self.tables.pop(name, None)

    def flush(self, name):
        assert name in self.tables

    def create_collection(self, name, *, schema, index_params, consistency_level):
        assert consistency_level == "Strong"  # or what was just written may not be found
        key, row = schema.to_dict()["fields"]
        assert (key["name"], key["type"]) == ("key", pymilvus.DataType.INT64)
        assert key["is_primary"]
        assert not key["auto_id"]
        assert not schema.to_dict()["enable_dynamic_field"]
        (index,) = index_params
        is_binary = row["type"] == pymilvus.DataType.BINARY_VECTOR
        dim = row["params"]["dim"]
        if dim < 2 or (is_binary and dim % 8):
            raise pymilvus.MilvusException(1100, f"invalid dimension: {dim}")
        kinds = {("BIN_FLAT", "HAMMING")} if is_binary else {("FLAT", "L2"), ("FLAT", "IP")}
        how = index.to_dict()
        assert (how["index_type"], how["metric_type"]) in kinds
        self.tables[name] = {"metric": how["metric_type"], "dim": dim, "rows": {}}

    def upsert(self, name, *, data):
        table = self._table(name)
        for entry in data:
            table["rows"][entry["key"]] = self._stored(table, entry["row"])

    def delete(self, name, *, ids=None, filter=None):
        rows = self._table(name)["rows"]
        if filter is not None:
            first, stop = map(int, re.fullmatch(r"key >= (\d+) and key < (\d+)", filter).groups())
            ids = [key for key in rows if first <= key < stop]
        for key in ids:
            rows.pop(key, None)

    def query(self, name, *, output_fields, ids=None, filter=None):
        rows = self._table(name)["rows"]
        if output_fields == ["count(*)"]:
            assert filter == ""
            return [{"count(*)": len(rows)}]
        assert output_fields == ["key", "row"]
        # In no order; and bytes come in a list.
        found = [(key, rows[key]) for key in reversed(ids) if key in rows]
        return [
            {"key": key, "row": [row] if isinstance(row, bytes) else row.tolist()}
            for key, row in found
        ]

    def search(self, name, *, data, limit, anns_field, output_fields, filter=""):
        assert anns_field == "row"
        if not 1 <= limit <= MOST:
            raise pymilvus.MilvusException(65535, f"topk [{limit}] is invalid, should be 1..16384")
        table = self._table(name)
        keys = np.array(sorted(table["rows"]), dtype=np.int64)
        if filter:
            keys = keys[self._passing(ast.parse(filter, mode="eval").body, keys)]
        rows = [table["rows"][key] for key in keys.tolist()]
        return [self._hits(table, query, keys, rows, limit, output_fields) for query in data]

    def _passing(self, node, keys):
        """Return which keys pass an expression; refuse what some server refuses."""
        match node:
            case ast.BoolOp(op, values):
                if len(values) > 49:
                    raise pymilvus.MilvusException(65535, "unsupported expr proto node")
                how = np.logical_and if isinstance(op, ast.And) else np.logical_or
                return how.reduce([self._passing(value, keys) for value in values])
            case ast.UnaryOp(ast.Not(), operand):
                return ~self._passing(operand, keys)
            case ast.Compare(ast.Name("key"), [op], [value]):
                return FILTERS[type(op)](keys, ast.literal_eval(value))
        raise pymilvus.MilvusException(1100, f"cannot parse expression: {ast.dump(node)}")

    def _hits(self, table, query, keys, rows, limit, fields):
        query = self._stored(table, query)
        if table["metric"] == "HAMMING":
            bits = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1)
            values = np.bitwise_count(bits ^ np.frombuffer(query, np.uint8)).sum(axis=1, dtype=int)
        elif table["metric"] == "L2":
            values = ((np.array(rows, dtype=float) - query) ** 2).sum(axis=1)
        else:
            values = np.array(rows, dtype=float) @ query.astype(float)
        if table["metric"] != "HAMMING":
            values = self.shift(query, np.array(rows), values).astype(np.float32)
        # Of equal ones a server gives any first: here the last.
        order = np.lexsort((-keys, -values if table["metric"] == "IP" else values))[:limit]
        found = [rows[row] if "row" in fields else None for row in order]
        return Hits(keys[order], values[order], found)

    @staticmethod
    def _stored(table, row):
        """Return a row as it is held; raise unless it has the length of the collection."""
        length = len(row) * 8 if isinstance(row, bytes) else len(row)
        if isinstance(row, bytes) != (table["metric"] == "HAMMING") or length != table["dim"]:
            raise pymilvus.MilvusException(1100, f"{length} numbers, not {table['dim']}")
        return row if isinstance(row, bytes) else np.array(row, dtype=np.float32)

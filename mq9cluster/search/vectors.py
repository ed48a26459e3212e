"""The vectors of one embedder in one shard: quantised codes, scanned exactly or through a graph.

A code is the unit vector times 127 rounded to bytes, so every code has nearly the same length and
the cosine is the integer product of two codes over 127 squared: exact arithmetic, the same on every
replica. All vectors can be scanned (about 25 GB/s); above GRAPH_VECTORS_MIN a usearch HNSW graph
over the same codes finds candidates, whose scores are the exact ones again.

The graph is built off the event loop: `maintenance()` hands out a job that owns copies of what it
needs, the caller runs it in a thread and then calls `adopt`. Vectors the graph does not have yet
(the *tail*) are scanned. Graph keys are not slots but point to them, so slots may be numbered anew
without rebuilding, and a graph loaded from disk attaches itself to whatever slots there are now.

The only door to usearch. Owned by `index.ShardIndex`. One thread at a time.
"""

import contextlib
import importlib
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numkong
import numpy as np
import numpy.typing as npt

# The ONNX runtime below fastembed (seen with 1.31) ends the process if usearch was loaded before;
# the other way round both work. Who has not installed it has nothing to load.
with contextlib.suppress(ImportError):
    importlib.import_module("onnxruntime")

from usearch.index import Index

from mq9cluster.domain.errors import EmbedderMismatch, InvalidField

CODE_LENGTH = 127  # a unit vector times this: no component leaves a signed byte
CODE_ONE = CODE_LENGTH * CODE_LENGTH  # the product of two equal codes, but for rounding
DIMENSIONS_MAX = 4_096  # of any embedding service in use; a code is as many bytes
GRAPH_VECTORS_MIN = 20_000  # below, a scan takes under a millisecond
TAIL_VECTORS_MAX = 2_048  # not yet in the graph: scanned, 0.05 ms
REBUILD_SHARE = 0.3  # dead share of a graph at which recall has measurably decayed
GRAPH_CONNECTIVITY = 16
GRAPH_EXPANSION_ADD = 96
GRAPH_EXPANSION_SEARCH = 160
OVERSAMPLE = 2  # candidates asked of the graph for each one wanted: some are dead or filtered
FILTER_SCAN_SHARE = 0.1  # a filter that leaves less is scanned: the graph would miss most of it

Graph = Index
Codes = npt.NDArray[np.int8]
Vector = npt.NDArray[np.float32]
Slots = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def quantize(raw: object, dimensions: int) -> bytes:
    """The code of a vector; EmbedderMismatch for its size, InvalidField for its content."""
    if not isinstance(raw, list | tuple | np.ndarray):
        raise InvalidField("vector", "must be a list of numbers")
    if len(raw) != dimensions:
        raise EmbedderMismatch(f"the vector has {len(raw)} dimensions, not {dimensions}")
    if not isinstance(raw, np.ndarray) and not all(type(x) in {int, float} for x in raw):
        raise InvalidField("vector", "must be a list of numbers")
    try:
        vector = np.asarray(raw, np.float64)
    except OverflowError as error:
        raise InvalidField("vector", "must be finite") from error
    if vector.ndim != 1:
        raise InvalidField("vector", "must be a list of numbers")
    largest = np.abs(vector).max(initial=0.0)
    if not np.isfinite(largest):
        raise InvalidField("vector", "must be finite")
    if largest == 0.0:
        raise InvalidField("vector", "must not be zero")
    return code_of(vector)


def code_of(vector: npt.NDArray[np.floating]) -> bytes:
    """The code of a vector that is finite and not zero."""
    scaled = vector.astype(np.float64)
    scaled /= np.abs(scaled).max()  # so that squares neither overflow nor vanish
    scaled *= CODE_LENGTH / math.sqrt(scaled @ scaled)
    return np.rint(scaled).astype(np.int8).tobytes()


def check_code(code: bytes, dimensions: int) -> None:
    """EmbedderMismatch when `code` is none of this embedder."""
    if len(code) != dimensions:
        raise EmbedderMismatch(f"the code has {len(code)} dimensions, not {dimensions}")


def saved_graph(graph: Graph) -> bytes:
    """A graph as `VectorSpace.attach` takes it. Nothing may be added to it meanwhile."""
    return bytes(graph.save() or b"")


class Job(NamedTuple):
    """Graph work for a thread: add `codes` under `keys` to `graph`. `fresh`: a graph anew."""

    graph: Index
    keys: Slots
    codes: Codes
    fresh: bool

    def run(self) -> None:
        """Do it. Touches nothing but the graph, which nobody searches meanwhile."""
        if len(self.keys):
            self.graph.add(self.keys, self.codes, threads=1)


class VectorSpace:
    """Codes by slot, and the graph over them."""

    __slots__ = (
        "_codes",
        "_graph",
        "_growing",
        "_has",
        "_job_out",
        "_key_slot",
        "_slot_job",
        "_slot_key",
        "dimensions",
        "graph_vectors_min",
    )

    def __init__(self, dimensions: int, graph_vectors_min: int = GRAPH_VECTORS_MIN) -> None:
        self.dimensions = dimensions
        self.graph_vectors_min = graph_vectors_min
        self._codes: Codes = np.zeros((0, dimensions), np.int8)  # with room to grow
        self._has: Mask = np.zeros(0, np.bool_)
        self._graph: Index | None = None
        self._slot_key: Slots = np.zeros(0, np.int64)  # the graph's key of a slot, or -1
        self._slot_job: Slots = np.zeros(0, np.int64)  # its key when the job is adopted, or -1
        self._key_slot: Slots = np.zeros(0, np.int64)  # -1 when the key's vector is dead
        self._job_out = False
        self._growing = False  # the job out adds to the graph in use: scan meanwhile

    def put(self, slot: int, code: bytes) -> None:
        """The code of `slot`, also in place of another one."""
        check_code(code, self.dimensions)
        self._grow(slot + 1)
        self.remove(slot)
        self._codes[slot] = np.frombuffer(code, np.int8)
        self._has[slot] = True

    def remove(self, slot: int) -> None:
        """Forget what `slot` has, if anything."""
        if self.has(slot):
            self._has[slot] = False
            self._slot_job[slot] = -1
            key = self._slot_key[slot]
            if key >= 0:
                self._slot_key[slot] = -1
                self._key_slot[key] = -1

    def present(self, size: int) -> Mask:
        """Which of the first `size` slots have a vector."""
        mask = np.zeros(size, np.bool_)
        have = self._has[:size]
        mask[: len(have)] = have
        return mask

    def count(self) -> int:
        """Vectors there are."""
        return int(np.count_nonzero(self._has))

    def has(self, slot: int) -> bool:
        """Whether `slot` has a vector."""
        return slot < len(self._has) and bool(self._has[slot])

    def code(self, slot: int) -> bytes:
        """The code at `slot`."""
        return bytes(self._codes[slot])

    def memory_bytes(self) -> int:
        """Memory of codes and graph."""
        graph = 0 if self._graph is None else int(self._graph.memory_usage)
        return self._codes.nbytes + 17 * len(self._has) + 8 * len(self._key_slot) + graph

    def search(
        self, code: bytes, allowed: Mask, depth: int, *, exact: bool
    ) -> tuple[Slots | None, Scores]:
        """Slots among `allowed` and their cosines: at least the best `depth`.

        Where all were compared, no slots and the cosine of each; 0 for those not allowed.
        """
        check_code(code, self.dimensions)
        size = min(len(self._has), len(allowed))
        wanted = self._has[:size] & allowed[:size]
        left = int(np.count_nonzero(wanted))
        graph = self._graph
        if exact or graph is None or self._growing:
            return self._scan(code, wanted, left)
        share = left / max(1, self.count())
        ask = int(depth * OVERSAMPLE / max(share, FILTER_SCAN_SHARE)) + 16
        # A filter that leaves few, or a question for many: the graph would visit most of itself.
        if share < FILTER_SCAN_SHARE or ask * 8 > left:
            return self._scan(code, wanted, left)
        keys = graph.search(np.frombuffer(code, np.int8), ask, threads=1).keys.astype(np.int64)
        slots = self._key_slot[keys]
        slots = slots[slots >= 0]
        tail = np.flatnonzero(wanted & (self._slot_key[:size] < 0))
        slots = np.concatenate([slots[wanted[slots]], tail])
        if len(slots) < depth:
            return self._scan(code, wanted, left)
        return slots, self._cosines(code, self._codes[slots])

    def _scan(self, code: bytes, wanted: Mask, left: int) -> tuple[Slots | None, Scores]:
        if left * 4 < len(wanted):  # copying few is cheaper than multiplying all
            slots = np.flatnonzero(wanted)
            return slots, self._cosines(code, self._codes[slots])
        cosines = self._cosines(code, self._codes[: len(wanted)])
        cosines[~wanted] = 0.0
        return None, cosines

    def _cosines(self, code: bytes, codes: Codes) -> Scores:
        if not len(codes):
            return np.zeros(0)
        query = np.frombuffer(code, np.int8).reshape(1, -1)
        products = np.asarray(numkong.cdist(query, codes, "dot"))  # 32-bit integers: exact
        cosines: Scores = products.reshape(-1) / CODE_ONE
        return np.minimum(cosines, 1.0, out=cosines)  # rounding may exceed one

    def _grow(self, size: int) -> None:
        have = len(self._has)
        if size <= have:
            return
        if size > len(self._codes):
            room = max(size, len(self._codes) * 5 // 4, 256)
            codes = np.zeros((room, self.dimensions), np.int8)
            codes[:have] = self._codes[:have]
            self._codes = codes
        more = np.full(len(self._codes) - have, -1)
        self._has = np.concatenate([self._has, more > 0])
        self._slot_key = np.concatenate([self._slot_key, more])
        self._slot_job = np.concatenate([self._slot_job, more])

    def compact(self, numbers: Slots) -> None:
        """Number slots anew, as `LexicalIndex.compact` does. The graph stays."""
        kept = np.flatnonzero(numbers >= 0)
        kept = kept[kept < len(self._has)]
        self._codes = self._codes[kept]
        self._has = self._has[kept]
        self._slot_key = self._slot_key[kept]
        self._slot_job = self._slot_job[kept]
        self._point_keys(len(self._key_slot))

    def _point_keys(self, keys: int) -> None:
        self._key_slot = np.full(keys, -1)
        live = np.flatnonzero(self._slot_key >= 0)
        self._key_slot[self._slot_key[live]] = live

    # ---- the graph

    def maintenance(self) -> Job | None:
        """Graph work that is due, or None. Run it in a thread, then `adopt` it."""
        count = self.count()
        if self._job_out or count < self.graph_vectors_min:
            return None
        dead = np.count_nonzero(self._key_slot < 0)
        if self._graph is None or dead > REBUILD_SHARE * len(self._key_slot):
            return self._job(self._new_graph(), 0, np.flatnonzero(self._has), fresh=True)
        tail = np.flatnonzero(self._has & (self._slot_key < 0))
        if len(tail) <= TAIL_VECTORS_MAX:
            return None
        return self._job(self._graph, len(self._key_slot), tail, fresh=False)

    def _new_graph(self) -> Index:
        return Index(
            ndim=self.dimensions,
            metric="ip",
            dtype="i8",  # codes are bytes already: f16 would keep the same and take twice the room
            connectivity=GRAPH_CONNECTIVITY,
            expansion_add=GRAPH_EXPANSION_ADD,
            expansion_search=GRAPH_EXPANSION_SEARCH,
        )

    def _job(self, graph: Index, first: int, slots: Slots, *, fresh: bool) -> Job:
        self._job_out = True
        self._growing = not fresh
        keys = np.arange(first, first + len(slots))
        self._slot_job[:] = -1
        self._slot_job[slots] = keys
        return Job(graph, keys, self._codes[slots], fresh)

    def adopt(self, job: Job) -> None:
        """Use what `job` built; vectors that changed or went meanwhile are dead keys in it."""
        self._job_out = self._growing = False
        if job.fresh:
            self._graph = job.graph
            self._slot_key[:] = -1
        live = self._slot_job >= 0
        self._slot_key[live] = self._slot_job[live]
        self._slot_job[:] = -1
        self._point_keys(int(job.keys[-1]) + 1 if len(job.keys) else len(self._key_slot))

    def kept(self, names: Sequence[str]) -> tuple[Index, list[str | None]] | None:
        """The graph, and who is at each of its keys; None where there is none to be saved now.

        The codes are in the state. The graph may be serialised where its jobs are run, before the
        next one.
        """
        if self._graph is None or self._job_out:
            return None
        slots = self._key_slot.tolist()
        return self._graph, [names[slot] if slot >= 0 else None for slot in slots]

    def attach(self, data: bytes, owners: Sequence[str | None], slots: Mapping[str, int]) -> bool:
        """Use a graph that was saved, once the codes are here; False where it does not fit.

        Vectors that changed since are dead keys of it, new ones its tail.
        """
        graph = self._new_graph()
        graph.load(data)
        keys = np.arange(len(owners))
        if graph.ndim != self.dimensions or len(graph) != len(owners) or self._job_out:
            return False
        owned = np.array([slots.get(name, -1) if name is not None else -1 for name in owners])
        owned[owned >= len(self._has)] = -1
        live = np.flatnonzero(owned >= 0)
        at = owned[live]
        vectors = np.asarray(graph.get(keys[live], dtype="i8"))
        same = self._has[at] & (vectors == self._codes[at]).all(axis=1)
        self._slot_key[:] = -1
        self._slot_key[at[same]] = live[same]
        self._graph = graph
        self._point_keys(len(owners))
        return True

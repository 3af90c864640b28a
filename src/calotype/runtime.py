"""Runs the graphs of a bundle. The only place that knows onnxruntime."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from calotype.bundle import Bundle, ModelFile
from calotype.errors import InvalidModel
from calotype.postfilter import GRAPH_FILE, PRODUCTS_FILE, RADIUS_PX, Weights, kernel_of, packaged
from calotype.steps import Part, Places, parts_of
from calotype.threads import share
from calotype.tiling import Box

Floats = NDArray[np.float32]

WAIT_US = "50"
"""How long a thread of a network looks for more work before it sleeps: waking it for each layer takes longer."""
WAITS_SINCE = 1, 26
"""The version of onnxruntime that can be told so; threads of older ones would hold up other networks for too long."""


_PACKAGED = "calotype/"
"""Before the names of graphs that stand beside this file, for they are the same for all models."""


class Networks:
    """The graphs of a model file of any kind. Safe to share between threads.

    Args:
        file: The model.
        threads: Threads of one network; None for as many as there are cores, or a task's share of them.
        optimise: Whether onnxruntime may rewrite the graphs. What dyadic graphs compute does not depend on it.
    """

    def __init__(self, file: ModelFile, threads: int | None = None, *, optimise: bool = True) -> None:
        self.file = file
        self._threads, self._optimise = threads, optimise
        self._sessions: dict[tuple[str, int], Any] = {}
        self._lock = threading.Lock()
        _alive.add(self)

    def abandon(self) -> None:
        """Begin anew in a forked process. Sessions' threads did not come along, and to end a session waits for them."""
        _abandoned.append(self._sessions)
        self._sessions, self._lock = {}, threading.Lock()

    def _session(self, graph: str) -> Any:
        threads = self._threads or share()
        with self._lock:
            if (graph, threads) not in self._sessions:
                import onnxruntime as ort

                options = ort.SessionOptions()
                options.intra_op_num_threads = threads
                options.log_severity_level = 3
                _wait_briefly(ort, options)
                _share_memory(ort, options)
                if not self._optimise:
                    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
                self._sessions[graph, threads] = ort.InferenceSession(
                    self._source(graph), options, providers=["CPUExecutionProvider"]
                )
            return self._sessions[graph, threads]

    def _source(self, graph: str) -> bytes:
        if graph not in self.file.members:
            raise InvalidModel(f"{self.file.path}: no {graph} inside; this model only decodes")
        return self.file.members[graph]

    def run(self, graph: str, **inputs: NDArray[Any]) -> list[Floats]:
        """Run one graph; tensors have their batch axis here.

        Raises:
            InvalidModel: If it does not load or run.
        """
        try:
            return self._session(graph).run(None, inputs)
        except InvalidModel:
            raise
        except Exception as error:  # onnxruntime has a class for each status
            raise InvalidModel(f"{self.file.path}: {graph} does not run: {error}") from error


def _wait_briefly(ort: Any, options: Any) -> None:
    """Each network has its own threads; those that wait for long would hold up the next network's."""
    able = tuple(map(int, ort.__version__.split(".")[:2])) >= WAITS_SINCE
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(able)))
    if able:
        options.add_session_config_entry("session.intra_op.spin_duration_us", WAIT_US)


_sharing: set[int] = set()
"""The process, by its number, whose networks share an arena."""


def _share_memory(ort: Any, options: Any) -> None:
    """Have the networks of this process share an arena: of its own, each would keep its peak for ever.

    A forked process does not inherit it, for a thread that did not come along may have been about to change it.
    """
    if not _sharing:
        _sharing.add(os.getpid())
        cpu = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
        with suppress(Exception):  # older versions refuse a second one, such as another library's, and share that
            ort.create_and_register_allocator(cpu, None)
    if os.getpid() in _sharing:
        options.add_session_config_entry("session.use_env_allocators", "1")


_alive: WeakSet[Networks] = WeakSet()
_abandoned: list[dict[tuple[str, int], Any]] = []


def _after_fork() -> None:
    for networks in _alive:
        networks.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Runtime(Networks):
    """The networks of a photo codec on numpy arrays without a batch axis."""

    def __init__(self, bundle: Bundle, threads: int | None = None, *, optimise: bool = True) -> None:
        super().__init__(bundle, threads, optimise=optimise)
        self.bundle = bundle
        self._tables = len(bundle.tables.tables)

    def _transform(self, graph: str, name: str, x: Floats, level: int) -> Floats:
        return self.run(graph, **{name: x[None], "level": np.array([level], np.int64)})[0][0]

    def analyse(self, x: Floats, level: int, head: int = 0) -> Floats:
        """g_a: picture (c, h, w) in [-0.5, 0.5], sides multiples of 64 -> y (m, h/16, w/16) in quantiser steps."""
        return self._transform(self.bundle.manifest.heads[head].analysis, "x", x, level)

    def synthesise(self, y_hat: Floats, level: int, head: int = 0) -> Floats:
        """g_s: y_hat (m, h, w) -> picture (c, 16h, 16w)."""
        return self._transform(self.bundle.manifest.heads[head].graph, "y", y_hat, level)

    def postfilter(self, x_hat: Floats, box: Box, weights: Weights) -> Floats:
        """A box of a synthesised picture (c, h, w), clipped to what samples hold, filtered."""
        _, height, width = x_hat.shape
        around = box.grown(RADIUS_PX, 1).common(Box(0, 0, height, width))
        x = np.ascontiguousarray(x_hat[(slice(None), *around.slices())])
        x = self.run(_PACKAGED + GRAPH_FILE, x=x[None], kernel=kernel_of(weights))[0][0]
        return x[(slice(None), *box.within(around).slices())]

    def products(self, a: Floats, b: Floats) -> Floats:
        """Sums (i, j) of the products of the rows of a (i, n) and b (j, n), the same for any number of threads."""
        return self.run(_PACKAGED + PRODUCTS_FILE, a=a, b=b)[0]

    def _source(self, graph: str) -> bytes:
        return packaged(graph.removeprefix(_PACKAGED)) if graph.startswith(_PACKAGED) else super()._source(graph)

    def preview(self, y_hat: Floats, level: int) -> Floats:
        """y_hat (m, h, w) -> thumbnail (c, h, w): the picture at 1/16."""
        return self._transform(self.bundle.manifest.preview, "y", y_hat, level)

    def hyper_analyse(self, y: Floats) -> Floats:
        """h_a: y (m, 4a, 4b) -> z (k, a, b), not yet rounded."""
        return self.run("h_a.onnx", y=y[None])[0][0]

    def features(self, z: NDArray[np.int16], level: int) -> Floats:
        """h_s: z (k, a, b) -> features (p, 4a, 4b), exact."""
        bias = self.bundle.level_bias[level].astype(np.float32)[None, :, None, None]
        return self.run("h_s.onnx", z=z[None].astype(np.float32), level_bias=bias)[0][0]

    def step(self, t: int, features: Floats, y8: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """Step t of the prior, exact: features, and the known part of y8 (m, h, w), -> mean in eighths and table index.

        Both are of the elements that the step codes (n,), in the order of (c, i, j).
        """
        known = {"known": y8[None].astype(np.float32)} if t else {}
        graph = self.bundle.manifest.step_graphs[t]
        mean, index = self.run(graph, features=features[None], **known)
        part = parts_of(self.bundle.manifest.steps, *y8.shape)[t]
        places = self._places(part, mean.shape[1:], y8.shape)
        if places is None or index.shape != mean.shape or not 0 <= index.min() <= index.max() < self._tables:
            raise InvalidModel(f"{self.bundle.path}: {graph} gives {mean.shape}, {index.shape} or unknown tables")
        return mean.ravel()[places].astype(np.int32), index.ravel()[places].astype(np.uint8)

    def _places(self, part: Part, given: tuple[int, ...], whole: tuple[int, int, int]) -> Places | None:
        """Where a step's elements stand in what its graph gives: something for all elements of y, or for them alone."""
        channels, rows, columns = whole
        if given == whole:
            return part.elements
        alone = self.bundle.manifest.steps == 4 and given == (channels, rows // 2, columns // 2)
        return part.gathered if alone else None

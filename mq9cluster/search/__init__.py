"""Text and vector search of one shard, and merging of many."""

import contextlib
import importlib

# The ONNX runtime below fastembed (seen with 1.31) ends the process if usearch was loaded before;
# the other way round both work. Who has not installed it has nothing to load.
with contextlib.suppress(ImportError):
    importlib.import_module("onnxruntime")

"""What the package's claims of speed rest on: ``python -m benchmarks [name ...]``.

A benchmark is one module with a ``NAME`` and a function ``run(settings) -> Report``, and a line in
``__main__.py``.  Its contenders take turns in one process (``interleave``); its report is printed,
and written as JSON and as a figure (``report``, ``figure``).
"""

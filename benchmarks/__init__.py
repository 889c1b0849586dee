"""What the package's claims of speed rest on: ``python -m benchmarks [name ...]``.

``speed``, ``growth`` and ``quality`` hold ours against hand-written torch, Pyro and NumPyro on
common workloads (``workloads``); ``credit`` and ``pathwise`` hold single losses against Pyro's.

A benchmark is one module with a ``NAME`` and a function ``run(settings) -> Report``, and a line in
``__main__.py``.  Its contenders take turns in one process (``interleave``); its report is printed,
and written as JSON and as a figure (``report``, ``figure``).  A new workload is one entry in
``workloads`` and, if its mathematics is new, one file in ``programs``; a new way to run them is one
file in ``contenders``.
"""

"""The main job on real data: a relevance vector machine, fitted by four gradient estimators.

Run it with ``python -m pyro_dsvi.demo``.  It needs the extra: ``pip install "pyro-dsvi[demo]"``.
"""

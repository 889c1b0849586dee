"""An exported hierarchical model with two plates, and its cross-validation, as a file.

``python -m tests.torch_free.exported FILE`` writes it where torch is; the tests next to this file
read it where torch is not.
"""

import pickle
import sys
from pathlib import Path
from typing import Any


def export() -> dict[str, Any]:
    """The groups, and what ``loo`` says of them under the arviz that is installed here."""
    import pyro

    from pyro_dsvi.export import export_groups, loo
    from pyro_dsvi.export.groups import inference_data
    from tests.export.programs import PUPILS, SCHOOLS, data, guide, model

    x, y = data()
    pyro.set_rng_seed(0)
    groups = export_groups(
        model,
        guide,
        x,
        y,
        num_samples=2000,
        predictions=(x[:2] + 1,),
        coords={"school": SCHOOLS},
        prediction_coords={"school": SCHOOLS[:2]},
        dims={"weights": ["term"], "x": ["school", "pupil"]},
        constant_data={"x": x},
        chunk_size=2000,
    )
    elpd = loo(inference_data(groups)).loo_i.values
    assert elpd.shape == (len(SCHOOLS), PUPILS)
    return {"groups": groups, "elpd": elpd}


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(pickle.dumps(export()))

"""The library: what `import lrt` gives, composed of the parts in the other folders.

No configuration, no cache folder, nothing written but what `save` is asked for.
"""

from lrt.api.blending import blend
from lrt.api.extraction import extract_vector
from lrt.api.fitted_map import FittedMap, Transferred
from lrt.api.fitting import fit_map
from lrt.api.hub import pull, push
from lrt.api.loading import load, load_map
from lrt.api.map_grid import MapGrid
from lrt.api.vector_forecast import VectorForecast
from lrt.errors import InvalidValue, UserError
from lrt.models import LanguageModel
from lrt.steering import SteeringVector, bake, read_vector, steer, write_vectors

__all__ = [
    "FittedMap",
    "InvalidValue",
    "LanguageModel",
    "MapGrid",
    "SteeringVector",
    "Transferred",
    "UserError",
    "VectorForecast",
    "bake",
    "blend",
    "extract_vector",
    "fit_map",
    "load",
    "load_map",
    "pull",
    "push",
    "read_vector",
    "steer",
    "write_vectors",
]

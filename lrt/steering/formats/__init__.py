"""Steering vectors in the files and objects of other software: read, written, converted."""

from lrt.steering.formats.control_vector import read_control_vector, write_control_vector
from lrt.steering.formats.directions import PackageMissing
from lrt.steering.formats.hotwire import read_hotwire_norms
from lrt.steering.formats.registry import (
    FACTS,
    FORMATS,
    VectorFormat,
    read_vector,
    write_vectors,
    writing_format,
)
from lrt.steering.formats.repeng import entries_of_prompts, from_repeng, prompts_of_entries, to_repeng
from lrt.steering.formats.steering_vectors import from_steering_vectors, to_steering_vectors

__all__ = [
    "FACTS",
    "FORMATS",
    "PackageMissing",
    "VectorFormat",
    "entries_of_prompts",
    "from_repeng",
    "from_steering_vectors",
    "prompts_of_entries",
    "read_control_vector",
    "read_hotwire_norms",
    "read_vector",
    "to_repeng",
    "to_steering_vectors",
    "write_control_vector",
    "write_vectors",
    "writing_format",
]

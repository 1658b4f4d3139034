"""Raw measurements in the cache."""

from lrt.evaluation import Study
from lrt.evaluation.study_io import read_study, write_study
from lrt.storage.cache import Format

STUDY: Format[Study] = Format(".jsonl", write_study, read_study)
"""One jsonl file a behaviour, from which every report can be made again."""

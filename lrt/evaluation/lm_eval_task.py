"""Multiple-choice items as a task of lm-evaluation-harness, so that its numbers are of the same questions.

lm-eval compares the log-likelihoods of whole answers, and `Choice` the logits of the first token at which
they differ. For letters these differences are equal; of longer answers lm-eval counts the rest, too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lrt.evaluation.behaviours import Item
from lrt.storage.durable import write_durably

VERSION = "0.4.13"
"""Of lm-eval, that the files were tried with."""

_TASK = """\
# lm_eval --tasks {name} --include_path . (started in this folder)
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {name}.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{answers}}}}"
doc_to_target: correct
target_delimiter: ""
num_fewshot: 0
metric_list:
  - metric: acc
"""


def write_task(items: Sequence[Item], folder: Path, name: str) -> None:
    """Write `NAME.yaml` and `NAME.jsonl`; answers are in alphabetical order.

    Of equal log-likelihoods (and of broken ones, nan) lm-eval takes the first, which must not be the correct
    one always.
    """
    rows = []
    for item in items:
        answers = sorted((item.matching, item.other, *item.others))
        rows.append({"prompt": item.prompt, "answers": answers, "correct": answers.index(item.matching)})
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / f"{name}.jsonl", lines.encode())
    write_durably(folder / f"{name}.yaml", _TASK.format(name=name).encode())

"""A strength sweep with the package steering-vectors, run in its own environment without lrt.

python steering_vectors_sweep.py JOB.json prints seconds and logit differences as one line of JSON.
"""

import importlib.metadata
import json
import sys
import time
from pathlib import Path

import torch
from steering_vectors import SteeringVector
from transformers import AutoModelForCausalLM


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(job["threads"])
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32).eval()
    prompts, answers = torch.tensor(job["prompts"]), torch.tensor(job["answers"])
    vector = SteeringVector(layer_activations={job["layer"]: torch.tensor(job["vector"])})

    @torch.no_grad()
    def sweep() -> list[list[float]]:
        differences = []
        for strength in job["strengths"]:
            with vector.apply(model, multiplier=strength):
                logits = model(prompts, use_cache=False, logits_to_keep=1).logits[:, -1].float()
            pair = logits.gather(1, answers)
            differences.append((pair[:, 0] - pair[:, 1]).tolist())
        return differences

    differences = sweep()
    seconds = []
    for _ in range(job["runs"]):
        start = time.perf_counter()
        sweep()
        seconds.append(time.perf_counter() - start)
    version = importlib.metadata.version("steering-vectors")
    print(json.dumps({"seconds": seconds, "differences": differences, "version": version}))


if __name__ == "__main__":
    main()

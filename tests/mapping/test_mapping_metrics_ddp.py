from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing

from lrt.mapping import ErrorAlong, FractionUnexplained, MeanCosine

# Uneven on purpose: an average of per-process ratios would show.
SHARE = (70, 30)


def metrics() -> dict[str, torch.nn.Module]:
    direction = torch.arange(1.0, 5.0)
    return {
        "fvu": FractionUnexplained(4),
        "along": ErrorAlong(direction),
        "cosine": MeanCosine(),
    }


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    observed = torch.randn(100, 4, generator=generator)
    observed[70:] = 20 + 9 * observed[70:]
    return observed + torch.randn(100, 4, generator=generator), observed


def score_share(rank: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    try:
        values = {}
        predicted, observed = (part.split(SHARE)[rank] for part in rows())
        for name, metric in metrics().items():
            metric.update(predicted, observed)
            values[name] = float(metric.compute())
        Path(folder, f"{rank}.json").write_text(json.dumps(values))
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_score_as_one(tmp_path):
    # forked: spawned processes would import torch and lightning again
    torch.multiprocessing.start_processes(score_share, args=(str(tmp_path),), nprocs=2, start_method="fork")
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert found[0] == found[1]
    predicted, observed = rows()
    for name, metric in metrics().items():
        metric.update(predicted, observed)
        assert found[0][name] == pytest.approx(float(metric.compute()), rel=1e-12)
        shares = []
        for part in zip(predicted.split(SHARE), observed.split(SHARE), strict=True):
            metric.reset()
            metric.update(*part)
            shares.append(float(metric.compute()))
        if name != "cosine":
            assert found[0][name] != pytest.approx(sum(shares) / 2, rel=1e-2)

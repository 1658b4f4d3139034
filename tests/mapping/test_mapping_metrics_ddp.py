from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed
import torch.multiprocessing

from lrt.features import SparseAutoencoder, score_autoencoder
from lrt.mapping import ErrorAlong, FractionUnexplained, MeanCosine
from lrt.mapping.metrics import collect

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


def sae() -> SparseAutoencoder:
    return SparseAutoencoder(torch.eye(4), torch.zeros(4), torch.eye(4), torch.zeros(4), "relu")


def score_share(rank: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    try:
        scores = metrics()
        predicted, observed = (part.split(SHARE)[rank] for part in rows())
        for metric in scores.values():
            metric.update(predicted, observed)
        together = collect(mock.Mock(world_size=2), "val", scores.items())
        if rank == 0:  # the other process ends with the fit; outside of a Trainer nothing waits for it
            for metric in scores.values():
                metric.update(predicted, observed)
            alone = {name: float(metric.compute()) for name, metric in scores.items()}
            alone["autoencoder"] = score_autoencoder(sae(), [observed]).fvu
            Path(folder, "alone.json").write_text(json.dumps(alone))
        values = {name.removeprefix("val/"): float(value) for name, value in together.items()}
        Path(folder, f"{rank}.json").write_text(json.dumps(values))
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_score_as_one(tmp_path):
    # forked: spawned processes would import torch and lightning again
    torch.multiprocessing.start_processes(score_share, args=(str(tmp_path),), nprocs=2, start_method="fork")
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    first = [part[: SHARE[0]] for part in rows()]
    alone = json.loads((tmp_path / "alone.json").read_text())
    assert alone.pop("autoencoder") == score_autoencoder(sae(), first[1:]).fvu
    for name, metric in metrics().items():
        metric.update(*first)
        assert alone[name] == float(metric.compute())
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

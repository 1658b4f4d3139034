import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli.conftest import WholeRun
from running import ROOT, Ran, Workshop, run_main
from typer.testing import CliRunner

from lrt.cli.app import app
from lrt.cli.record import main
from lrt.pipeline import pair as loading
from lrt.storage.locks import LOCK

SHARED = (
    "recording.rows_per_shard=1024",
    "pair.source.dtype=float32",
    "pair.target.dtype=float32",
    "corpus.tokens.train=4096",
    "corpus.tokens.validation=1024",
    "corpus.tokens.test=1024",
)


def run_record(workshop: Workshop, *more: str) -> Ran:
    """`lrt record`, without the start of a process."""
    return run_main(main, "record", *workshop.settings(*SHARED, *more))


def store_of(artifacts: Path) -> dict[str, bytes]:
    (folder,) = artifacts.glob("activations/*")
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != LOCK}


@pytest.mark.slow
def test_shares_make_the_store_that_training_reads(workshop: Workshop) -> None:
    assert run_record(workshop).code == 0
    whole = store_of(workshop.artifacts)
    assert len(whole) > 4
    shutil.rmtree(workshop.artifacts / "activations")
    for share in ("1/2", "0/2"):
        done = run_record(workshop, f"record.share={share}")
        assert done.code == 0, done.output
        assert f"share {share}" in done.line
    done = run_record(workshop, "record.merge=true")
    assert done.code == 0, done.output
    assert store_of(workshop.artifacts) == whole
    before = workshop.files("activations")
    assert workshop.train(*SHARED, "fit=closed_form").code == 0
    assert workshop.files("activations") == before


@pytest.mark.slow
def test_two_processes_that_record_the_same_at_once_do_not_harm_each_other(
    workshop: Workshop, pair_folder: Path, tmp_path: Path
) -> None:
    alone = Workshop(pair_folder, tmp_path / "alone")
    assert run_record(alone).code == 0
    command = [sys.executable, "-m", "lrt.cli.record"]
    settings = [workshop.settings(*SHARED, run=f"run{number}") for number in (0, 1)]
    both = [
        subprocess.Popen(
            [*command, *each],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for each in settings
    ]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    # the second waits, or comes when the first is done
    assert [process.returncode for process in both] == [0, 0], outputs
    assert store_of(workshop.artifacts) == store_of(alone.artifacts)


@pytest.mark.slow
def test_blocks_above_the_deepest_that_is_recorded_are_not_loaded(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[tuple[int, int]] = []
    real = loading.load

    def load(*given: Any) -> Any:
        lm = real(*given)
        loaded.append((len(lm.blocks), lm.depth))
        return lm

    monkeypatch.setattr(loading, "load", load)
    shallow = ("layers.source=0", "layers.target=1")
    assert run_record(workshop, *shallow).code == 0
    assert [blocks for blocks, _ in loaded] == [1, 2]
    assert all(blocks < depth for blocks, depth in loaded)
    store = store_of(workshop.artifacts)
    shutil.rmtree(workshop.artifacts / "activations")
    assert workshop.train(*SHARED, *shallow, "fit=closed_form").code == 0  # with the models whole
    assert store_of(workshop.artifacts) == store


@pytest.mark.slow
def test_a_merge_without_all_shares_says_which_to_record(workshop: Workshop) -> None:
    assert run_record(workshop, "record.share=0/3").code == 0
    done = run_record(workshop, "record.merge=true")
    assert done.code == 1
    assert {"1/3", "2/3"} <= set(done.line.replace(",", " ").replace("=", " ").split())


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("record.share=3/2", "3/2"),
        ("record.share=two", "two"),
        ("record.share=auto", "WORLD_SIZE"),
        ("record.shard=0/2", "'shard'"),
        ("+record.shard=0/2", "record.shard"),
        ("pair.target.dtype=auto", "pair.target.dtype=auto"),
        ("record.merge=true", "record.merge=true"),  # beside a share
        ("recording.states=none", "recording.states=none"),
    ],
)
def test_what_cannot_be_recorded(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, override: str, named: str
) -> None:
    for name in ("RANK", "SLURM_ARRAY_TASK_ID", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    shared = () if override.startswith(("record.sha", "+record")) else ("record.share=0/2",)
    done = run_record(workshop, *shared, override)
    assert done.code == 1
    assert "Traceback" not in done.output
    assert named in done.line
    assert not (workshop.artifacts / "activations").exists()


def test_a_task_of_srun_records_its_share(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PROCID": "1", "NTASKS": "4", "JOB_ID": "7", "LOCALID": "1", "NODEID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    done = run_record(workshop, "record.share=auto")
    assert done.code == 0, done.output
    assert "share 1/4" in done.line


@pytest.mark.slow
def test_workers_that_torchrun_starts_record_a_share_each(workshop: Workshop) -> None:
    settings = workshop.settings(*SHARED, "record.share=auto")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "-m",
        "lrt.cli.record",
    ]
    done = subprocess.run(
        [*command, *settings],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert run_record(workshop, "record.merge=true").code == 0
    made = store_of(workshop.artifacts)
    shutil.rmtree(workshop.artifacts / "activations")
    assert run_record(workshop).code == 0
    assert store_of(workshop.artifacts) == made


def verify(*words: str) -> tuple[int, str]:
    """Exit code and output of `lrt verify`, on one line."""
    result = CliRunner().invoke(app, ["verify", *words])
    return result.exit_code, " ".join(result.output.split())


def test_artifacts_are_verified_and_a_store_is_repaired(whole_run: WholeRun, workshop: Workshop) -> None:
    shutil.copytree(whole_run.workshop.artifacts, workshop.artifacts)
    code, text = verify(str(workshop.artifacts))
    assert code == 0
    assert " 0 damaged" in text
    whole = store_of(workshop.artifacts)
    shard = workshop.one("activations/*/train-00000.safetensors")
    mapping = workshop.one("maps/*/mapping.safetensors")
    for file in (shard, mapping):
        file.write_bytes(file.read_bytes()[:-1] + b"\x77")
    code, text = verify(str(workshop.artifacts))
    assert code == 1
    assert "2 damaged" in text
    assert str(shard) in text
    assert str(mapping) in text
    # the map cannot be repaired from itself
    code, text = verify("--repair", str(workshop.artifacts))
    assert code == 1
    assert f"removed: {shard.name}" in text
    shutil.rmtree(mapping.parent)
    assert workshop.train().code == 0
    manifest = workshop.one("activations/*/manifest.json")
    content = manifest.read_text()
    manifest.write_text(content.replace('"rows"', '"r0ws"', 1))
    code, text = verify("--repair", str(workshop.artifacts))
    assert code == 1
    assert "not repaired" in text
    assert "1 damaged" in text  # the rest was checked all the same
    manifest.write_text(content)
    assert store_of(workshop.artifacts) == whole
    assert verify(str(workshop.artifacts))[0] == 0


def test_a_folder_to_verify_that_is_missing(tmp_path: Path) -> None:
    code, text = verify(str(tmp_path / "none"))
    assert code == 2
    assert "paths.artifacts" in text

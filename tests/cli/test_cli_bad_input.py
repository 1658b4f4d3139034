"""What a user can get wrong: exit code 1, one message that says what to change, nothing costly before it."""

import json
import shlex
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from running import MicroRun, Ran, Workshop, run_apart, run_here
from safetensors.torch import load_file, save_file

from lrt.storage.sealed import sealed

pytestmark = pytest.mark.xdist_group("micro")


def refused(ran: Ran, *said: str) -> None:
    """The run ended as a mistake of its user's does, and the message holds these phrases."""
    assert ran.code == 1, ran.told
    assert "Traceback" not in ran.told
    for phrase in said:
        assert phrase in ran.line, ran.told


def nothing_costly(workshop: Workshop) -> None:
    made = [p for kind in ("activations", "maps", "moments", "states") for p in workshop.files(kind)]
    assert made == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("layers.source=3", ("layers.source=3", "little has 3 blocks: allowed are 0 to 2")),
        ("layers.target=1.5", ("layers.target=1.5", "fraction of the depth in [0, 1)")),
        ("layers.source=-1", ("layers.source=-1",)),
        ("layers.source=[1,1]", ("layers.source=[1, 1] names a block twice",)),
        ("layers.source=[0.4,1]", ("layers.source=[0.4, 1] names a block twice: blocks [1, 1]",)),
        ("layers.target=[]", ("layers.target is empty",)),
        ("recording.target=[7]", ("recording.target=7", "big has 4 blocks: allowed are 0 to 3")),
        ("pool=0", ("span: Input should be greater than or equal to 1, got 0",)),
        ("seed=-1", ("seed=-1", "at least 0")),
        ("evaluation.grid.strengths=[0.5,1.0]", ("strengths=[0.5, 1.0] has no 0", "add 0 to it")),
        ("+pair.source.nonsense=1", ("pair.source.nonsense: is not a setting",)),
        ("fit.optimizer=Sgd", ("fit.optimizer is one of", "'Sgd'")),
        ("+fit.options.beta=1", ("fit.options.beta is not an option of SGD", "momentum")),
        ("+trainer.nonsense=1", ("trainer.nonsense is not a setting of Lightning's Trainer",)),
        ("+trainer.max_epochs=3", ("trainer.max_epochs is set by fit", "fit.epochs")),
        ("+trainer.logger=false", ("trainer.logger is not for a config to set",)),
        ("trainer.precision=13", ("Lightning's Trainer refuses", "trainer.precision=13")),
        ("suite.names=[french,nonsense]", ("nonsense", "french")),
        ("evaluation.behaviours=[dogs]", ("evaluation.behaviours holds 'dogs'", "bravery")),
        (
            "evaluation.during_training.behaviours=[dogs]",
            ("evaluation.during_training.behaviours holds 'dogs'", "bravery"),
        ),
        ("analysis.fidelity_kinds=[low_rank]", ("lacks `full`", "add it")),
        ("pair.source.path=/nowhere/at/all", ("'/nowhere/at/all' is no folder of this machine",)),
        ("map.kind=low_rank", ("map.rank must be 1 to 32", "got None")),
    ],
)
def test_setting_that_cannot_be_run(workshop: Workshop, override: str, said: tuple[str, ...]) -> None:
    refused(workshop.train(override), *said)
    nothing_costly(workshop)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("map=low_rank", "map.rank=33"), ("map.rank must be 1 to 32 for widths 32 -> 48, got 33",)),
        (
            ("map=orthogonal", "fit.whitening=full"),
            ("fit.whitening=full", "map.kind=orthogonal allows auto, scale or none"),
        ),
        (("map=orthogonal", "+map.penalty=0.1"), ("map.penalty=0.1 belongs to map.kind=orthogonal_penalty",)),
        (("map=orthogonal", "+map.rank=4"), ("map.rank=4 belongs to map.kind=low_rank",)),
        (("map=orthogonal_penalty", "map.penalty=-1"), ("map.penalty must be a finite number above 0",)),
    ],
)
def test_map_that_is_impossible(
    workshop: Workshop, overrides: tuple[str, ...], said: tuple[str, ...]
) -> None:
    refused(workshop.train(*overrides), *said)
    nothing_costly(workshop)


def test_key_that_the_config_does_not_have_is_hydras_to_refuse(workshop: Workshop) -> None:
    refused(workshop.train("nonsense=1"), "Could not override 'nonsense'")


def test_option_that_a_group_does_not_have(workshop: Workshop) -> None:
    refused(workshop.train("map=linear"), "Could not find 'map/linear'", "orthogonal_penalty")


def test_setting_that_must_be_given(workshop: Workshop) -> None:
    refused(workshop.train("corpus=text"), "corpus.sources.text.paths")


def test_accelerator_that_the_machine_lacks(workshop: Workshop) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    refused(workshop.train("trainer=gpu"), "Lightning's Trainer refuses", "trainer.accelerator=gpu")
    nothing_costly(workshop)


def test_tokenizers_differ(workshop: Workshop, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(workshop.pair / "big", other)
    file = other / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, two = (token for token, number in vocabulary.items() if number in (700, 701))
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    file.write_text(json.dumps(tokenizer))
    ran = workshop.train(f"pair.target.path={other}")
    refused(ran, "different tokenizers", "2 tokens differ", "set `pair` to two models of one family")
    first = min(one, two)
    assert f"token {first!r} has id" in ran.line
    nothing_costly(workshop)


def text(workshop: Workshop, content: str) -> list[str]:
    file = workshop.folder / "corpus.txt"
    file.write_text(content)
    return ["corpus=text", f"corpus.sources.text.paths=[{file}]", "corpus.context=128"]


def test_corpus_empty(workshop: Workshop) -> None:
    refused(workshop.train(*text(workshop, "\n\n")), "holds no text")
    nothing_costly(workshop)


def test_corpus_shorter_than_one_sequence(workshop: Workshop) -> None:
    short = "\n\n".join(f"Story {n} has few words." for n in range(9))
    refused(workshop.train(*text(workshop, short)), "corpus", "sequence", "128")
    nothing_costly(workshop)


def test_corpus_file_that_is_not_there(workshop: Workshop) -> None:
    ran = workshop.train("corpus=text", "corpus.sources.text.paths=[/nowhere/text]")
    refused(ran, "/nowhere/text")
    nothing_costly(workshop)


def test_states_that_are_not_finite(workshop: Workshop, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(workshop.pair / "big", broken)
    tensors = load_file(broken / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][0, 0] = float("inf")
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    ran = workshop.train(f"pair.target.path={broken}")
    refused(ran, "broken", "layer 2", "finite")
    assert not list(workshop.artifacts.glob("activations/*/manifest.json"))


def test_disk_too_small(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    ran = workshop.train()
    refused(ran, "recording needs", "1000 bytes", "corpus.tokens", "paths.artifacts")
    assert not list(workshop.artifacts.rglob("*.safetensors"))


@pytest.mark.parametrize("setting", ["artifacts", "report", "logs"])
def test_output_folder_that_cannot_be_written(workshop: Workshop, setting: str) -> None:
    # below a file, which stops root too
    blocked = workshop.folder / "a-file"
    blocked.touch()
    ran = workshop.train(f"paths.{setting}={blocked / 'below'}")
    refused(ran, f"paths.{setting}={blocked / 'below'} cannot be written", f"set paths.{setting} to a folder")
    nothing_costly(workshop)


def test_run_folder_that_cannot_be_written(workshop: Workshop) -> None:
    blocked = workshop.folder / "a-file"
    blocked.touch()
    ran = workshop.train(f"hydra.run.dir={blocked / 'below'}")
    assert ran.code == 1
    assert str(blocked) in ran.told


# -- artifacts of an earlier run that cannot be used ------------------------------------------------


@pytest.fixture
def used(micro_run: MicroRun, workshop: Workshop) -> Workshop:
    """The micro run's artifacts, to be spoilt."""
    shutil.copytree(micro_run.workshop.artifacts, workshop.artifacts)
    return workshop


def test_map_that_is_not_there(workshop: Workshop) -> None:
    ran = workshop.evaluate("map=low_rank", "map.rank=4")
    refused(
        ran, "there is no map in", "make it with: python train.py experiment=micro", "map=low_rank map.rank=4"
    )
    nothing_costly(workshop)


def test_the_line_that_makes_the_map_can_be_copied(workshop: Workshop) -> None:
    given = workshop.settings("pair.name='a pair'")
    ran = run_here("evaluate", *given)
    (line,) = [line for line in ran.told.splitlines() if "make it with" in line]
    repeated = [setting for setting in given if not setting.startswith("hydra.")]
    assert shlex.split(line.split("make it with: ")[1]) == ["python", "train.py", *repeated]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-8])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def test_map_truncated(used: Workshop) -> None:
    cut(used.one("maps/*/mapping.safetensors"))
    folder = used.one("maps/*")
    for ran in (used.evaluate(), used.train()):
        refused(ran, "bytes, its card says", f"delete the folder {folder} and make it with: python train.py")


def test_map_with_a_flipped_bit(used: Workshop) -> None:
    flip(used.one("maps/*/mapping.safetensors"))
    refused(used.evaluate(), "checksum", "delete the folder")


def test_map_of_another_kind_of_file(used: Workshop) -> None:
    used.one("maps/*/mapping.json").write_text('{"format": "recipe"}')
    refused(used.evaluate(), "is not the card of a map", "delete the folder")


def test_map_of_other_settings(used: Workshop) -> None:
    folder = used.one("maps/*")
    file = folder / "mapping.json"
    content: dict[str, Any] = json.loads(file.read_text())
    content["card"]["fingerprint"] = "0" * 32
    file.write_text(sealed(content))
    refused(used.evaluate(), f"{folder} holds the map of other settings", "delete the folder")


def again(workshop: Workshop) -> Ran:
    """A run that needs the store: the map is another."""
    return workshop.train("map=low_rank", "map.rank=4")


def test_store_truncated(used: Workshop) -> None:
    shard = used.one("activations/*/train-00000.safetensors")
    cut(shard)
    refused(again(used), f"{shard} is corrupt", "should have", "delete the folder")


def test_store_with_a_flipped_bit(used: Workshop) -> None:
    shard = used.one("activations/*/train-00000.safetensors")
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    refused(again(used), f"{shard} is corrupt", "do not match the sha256", "delete the folder")


def test_store_with_a_corrupt_manifest(used: Workshop) -> None:
    manifest = used.one("activations/*/manifest.json")
    cut(manifest)
    refused(again(used), f"{manifest} is corrupt", "delete the folder")


def test_store_of_other_settings(used: Workshop) -> None:
    # a whole store, copied into the place of another: the fingerprint is the folder's name alone
    manifest = used.one("activations/*/manifest.json")
    content = json.loads(manifest.read_text())
    assert manifest.parent.name in manifest.read_text()
    manifest.write_text(json.dumps(content).replace(manifest.parent.name, "0" * 32))
    ran = again(used)
    assert ran.code == 1
    refused(ran, str(manifest.parent), "delete the folder")


@pytest.mark.parametrize("pattern", ["moments/*/validation.safetensors", "moments/*/names.json"])
def test_moments_damaged(used: Workshop, pattern: str) -> None:
    for file in used.artifacts.glob(pattern):  # the map's and the untrained source's
        cut(file)
    refused(again(used), f"{used.artifacts / 'moments'}", "cannot be read", "delete it and run the command")


def test_states_damaged(used: Workshop) -> None:
    for file in used.artifacts.glob("states/*.safetensors"):
        cut(file)
    refused(again(used), "states", "cannot be read", "delete it and run the command again")


def test_measurements_truncated(used: Workshop) -> None:
    file = used.one("measurements/*/bravery-*.jsonl")
    cut(file)
    refused(used.evaluate(), str(file), "delete the file")


# -- through a process of its own, as a user does ---------------------------------------------------


def test_a_mistake_ends_the_process_with_code_1_and_one_message(workshop: Workshop) -> None:
    ran = run_apart("train", *workshop.settings("layers.source=9"))
    refused(ran, "error: layers.source=9 is not a layer; little has 3 blocks")
    nothing_costly(workshop)


def test_the_traceback_can_be_asked_for(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match=r"layers\.source=9"):
        workshop.train("layers.source=9")

"""Every format: what is written is read back, and what a file cannot say must be given."""

import inspect
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lrt.errors import InvalidValue
from lrt.steering import SteeringVector, VectorUnreadable
from lrt.steering.formats import FORMATS, read_vector, write_vectors
from lrt.steering.formats.directions import STORED

READING: dict[str, dict[str, Any]] = {
    "lrt": {},
    "gguf": {},
    "tensors": {
        "model": "large",
        "layer": "layer.{}",
        "hook_point": "block output",
        "residual_norm": "stored",
    },
}
WRITING: dict[str, dict[str, Any]] = {
    "lm-eval": {"strength": 0.5, "blocks": "model.layers"},
    "vllm-lens": {"strength": 0.5},
    "hotwire": {"depth": 9},
}
FILES = [
    ("lrt", "folder"),
    ("gguf", "v.gguf"),
    ("steering-vectors", "v.pt"),
    ("lm-eval", "v.pt"),
    ("hotwire", "v.pt"),
    ("vllm-lens", "v.json"),
    *(("tensors", f"v{suffix}") for suffix in (".safetensors", ".npz", ".pt")),
]


def made(layer: int = 2, seed: int = 0, norm: float = 3.5) -> SteeringVector:
    direction = torch.randn(48, generator=torch.Generator().manual_seed(seed))
    return SteeringVector(direction, layer, "large", norm, "french", prompts="abc")


def test_every_format_is_among_those_tested() -> None:
    assert {name for name, _ in FILES} == set(FORMATS)


@pytest.mark.parametrize(("name", "file"), FILES)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layers=st.sets(st.integers(1, 8), min_size=1, max_size=4), norm=st.floats(1e-3, 1e4), data=st.data())
def test_a_written_file_read_back_adds_the_same_at_the_same_blocks(
    name: str, file: str, layers: set[int], norm: float, data: st.DataObject, tmp_path: Path
) -> None:
    order = data.draw(st.permutations(sorted(layers)))
    vectors = [made(layer, layer, norm) for layer in (order[:1] if name == "lrt" else order)]
    facts = WRITING.get(name, {})
    write_vectors(vectors, tmp_path / file, name, **facts)
    back = read_vector(tmp_path / file, name, **READING.get(name, {"model": "large"}))
    assert [vector.layer for vector in back] == sorted(vector.layer for vector in vectors)
    for before, after in zip(sorted(vectors, key=lambda v: v.layer), back, strict=True):
        torch.testing.assert_close(after.scaled(), facts.get("strength", 1) * before.scaled())
        assert (after.model, after.operation, after.hook_point) == ("large", "add", before.hook_point)


@pytest.mark.parametrize(("name", "file"), FILES)
def test_a_file_that_says_its_format_is_read_and_written_without_a_name(
    name: str, file: str, tmp_path: Path
) -> None:
    write_vectors(made(), tmp_path / file, name, **WRITING.get(name, {}))
    facts = READING.get(name, {"model": "large"})
    if file.endswith(".pt"):  # four formats end so
        with pytest.raises(InvalidValue, match="format="):
            read_vector(tmp_path / file, **facts)
        with pytest.raises(InvalidValue, match="format="):
            write_vectors(made(), tmp_path / file)
    else:
        assert read_vector(str(tmp_path / file), **facts)[0].layer == 2


ASKED = [
    *((name, fact) for name in ("steering-vectors", "lm-eval", "hotwire", "vllm-lens") for fact in ["model"]),
    *(("tensors", fact) for fact in ("model", "layer", "hook_point", "residual_norm")),
]


@pytest.mark.parametrize(("name", "fact"), ASKED)
def test_what_a_format_cannot_say_is_asked_for_by_name(name: str, fact: str, tmp_path: Path) -> None:
    file = tmp_path / dict(FILES)[name]
    write_vectors(made(), file, name, **WRITING.get(name, {}))
    facts = READING.get(name, {"model": "large"})
    with pytest.raises(InvalidValue, match=f"{fact}="):
        read_vector(file, name, **{key: value for key, value in facts.items() if key != fact})


@pytest.mark.parametrize("name", list(WRITING))
def test_what_a_written_file_must_hold_is_asked_for_by_name(name: str, tmp_path: Path) -> None:
    file = tmp_path / dict(FILES)[name]
    for fact in WRITING[name]:
        facts = {key: value for key, value in WRITING[name].items() if key != fact}
        with pytest.raises(InvalidValue, match=f"{fact}="):
            write_vectors(made(), file, name, **facts)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "facts", "named"),
    [
        ("gguf", {"strength": 1.0}, "strength="),
        ("lm-eval", {"strength": float("nan"), "blocks": "layers"}, "strength="),
        ("lm-eval", {"strength": 1.0, "blocks": "layers.18"}, "blocks="),
        ("lm-eval", {"strength": 1.0, "blocks": ""}, "blocks="),
        ("vllm-lens", {"strength": "1"}, "strength="),
        ("hotwire", {"depth": 2}, "depth="),
        ("hotwire", {"depth": 2**40}, "depth="),
        ("hotwire", {"depth": 3.0}, "depth="),
        ("guff", {}, "format='guff'"),
    ],
)
def test_facts_that_cannot_be_are_refused(
    name: str, facts: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidValue, match=named):
        write_vectors(made(), tmp_path / dict(FILES).get(name, "v"), name, **facts)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "vectors",
    [
        [],
        [made(2), made(2, 1)],
        [made(1), replace(made(2), model="other")],
        [made(1), replace(made(2), behaviour="dogs")],
        [replace(made(2), operation="ablate")],
        [replace(made(2), direction=torch.zeros(48))],
        [made(2, norm=0.0)],
    ],
    ids=["none", "twice", "models", "behaviours", "ablation", "zero", "no norm"],
)
@pytest.mark.parametrize(("name", "file"), [each for each in FILES if each[0] != "lrt"])
def test_vectors_that_no_file_can_hold(
    name: str, file: str, vectors: list[SteeringVector], tmp_path: Path
) -> None:
    with pytest.raises(InvalidValue):
        write_vectors(vectors, tmp_path / file, name, **WRITING.get(name, {}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "file"), [("lm-eval", "v.bin"), ("hotwire", "v.safetensors"), ("tensors", "v.gguf")]
)
def test_a_name_that_the_other_software_would_not_read(name: str, file: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match=file):
        write_vectors(made(), tmp_path / file, name, **WRITING.get(name, {}))


def test_a_given_residual_norm_is_the_length_of_strength_one(tmp_path: Path) -> None:
    file = tmp_path / "v.npy"
    write_vectors(made(), file)
    facts = {"model": "m", "layer": 5, "hook_point": "block output"}
    (stored,) = read_vector(file, **facts, residual_norm="stored")
    (normed,) = read_vector(file, **facts, residual_norm=7)
    torch.testing.assert_close(stored.scaled(), made().scaled())
    torch.testing.assert_close(normed.scaled(), made().unit_direction * 7)
    assert (stored.unit, normed.unit) == (STORED, "median residual norm")
    for wrong in (0, -1, float("nan"), float("inf"), True, "length", {4: 1.0}, None):
        with pytest.raises(InvalidValue, match="residual_norm"):
            read_vector(file, **facts, residual_norm=wrong)
    with pytest.raises(InvalidValue, match="holds one"):
        write_vectors([made(1), made(2)], file)


STORED_LENGTH: dict[str, Any] = {"model": "m", "residual_norm": "stored"}


def test_the_input_of_a_block_is_the_output_of_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "v.npy"
    np.save(file, np.eye(3, 4, dtype=np.float32))
    for point, layers in (("block output", [1, 5, 9]), ("block input", [0, 4, 8])):
        vectors = read_vector(file, layer=[1, 5, 9], hook_point=point, **STORED_LENGTH)
        assert [vector.layer for vector in vectors] == layers
        assert [int(vector.direction.argmax()) for vector in vectors] == [0, 1, 2]
    with pytest.raises(InvalidValue, match="embeddings"):
        read_vector(file, layer=[0, 1, 2], hook_point="block input", **STORED_LENGTH)
    with pytest.raises(InvalidValue, match="hook_point"):
        read_vector(file, layer=[0, 1, 2], hook_point="resid_post", **STORED_LENGTH)


def test_one_of_several_tensors_is_named(tmp_path: Path) -> None:
    file = tmp_path / "v.safetensors"
    tensors = {"a": torch.ones(4), "x.3.w": torch.ones(4) * 2, "x.12.w": torch.ones(1, 4) * 3}
    save_file(tensors, file)
    facts = {**STORED_LENGTH, "hook_point": "block output"}
    assert read_vector(file, layer=7, tensor="a", **facts)[0].layer == 7
    assert [vector.layer for vector in read_vector(file, layer="x.{}.w", **facts)] == [3, 12]
    for layer, tensor in ((7, None), (7, "b"), ("y.{}", None), ("x", None), ("x.{}.w", "a"), (None, "a")):
        with pytest.raises(InvalidValue, match="tensor"):
            read_vector(file, layer=layer, tensor=tensor, **facts)
    for wrong in (-1, True, [1, 2], [[1]], 2.5):
        with pytest.raises(InvalidValue, match="layer"):
            read_vector(file, layer=wrong, tensor="a", **facts)
    save_file({"table": torch.eye(2, 4)}, file)
    for rows in ([1], [1, 1], [1, 2, 3], [1, "2"], [[1], [2]], [1, True], 4):
        with pytest.raises(InvalidValue):
            read_vector(file, layer=rows, **facts)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(4),
        torch.arange(4),
        torch.tensor([1.0, float("nan")]),
        torch.tensor([1.0, float("inf")]),
        torch.ones(2, 2),
        torch.ones(()),
        torch.ones(0),
        torch.ones(1).expand(2**40),
        torch.ones(4).to_sparse(),
        torch.ones(4, dtype=torch.complex64),
        torch.full((4,), 1e300, dtype=torch.float64),
        torch.ones(4, device="meta"),
        [1.0, 2.0],
        None,
    ],
    ids=str,
)
def test_tensors_that_are_no_direction(tensor: Any, tmp_path: Path) -> None:
    file = tmp_path / "v.pt"
    torch.save({"v": tensor}, file)
    with pytest.raises(InvalidValue, match=str(file)):
        read_vector(file, "tensors", layer=1, hook_point="block output", **STORED_LENGTH)
    torch.save({"layer_activations": {1: tensor}, "layer_type": "decoder_block"}, file)
    with pytest.raises(InvalidValue, match=str(file)):
        read_vector(file, "steering-vectors", model="m")
    entry = {"steering_vector": tensor, "steering_coefficient": 1.0, "action": "add"}
    torch.save({"layers.1": entry}, file)
    with pytest.raises(InvalidValue, match=str(file)):
        read_vector(file, "lm-eval", model="m")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read_as_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    file = tmp_path / "v.pt"
    torch.save(torch.nn.Parameter(torch.tensor([0.5, -2.0], dtype=dtype)), file)
    facts = {**STORED_LENGTH, "hook_point": "block output", "layer": 1}
    (vector,) = read_vector(file, "tensors", **facts)
    assert vector.direction.dtype == torch.float32
    assert not vector.direction.requires_grad
    assert vector.direction.tolist() == [0.5, -2.0]


@pytest.mark.parametrize("name", ["french.gguf", "french.safetensors", "french.json", "french"])
def test_folders_on_the_way_are_made_and_a_file_on_the_way_is_named(name: str, tmp_path: Path) -> None:
    vector = SteeringVector(torch.ones(4), 1, "tiny", 2.0)
    facts = {"strength": 0.4} if name.endswith(".json") else {}
    write_vectors(vector, tmp_path / "new" / "folder" / name, **facts)
    assert (tmp_path / "new" / "folder" / name).exists()
    (tmp_path / "file").touch()
    with pytest.raises(InvalidValue, match="is a file"):
        write_vectors(vector, tmp_path / "file" / name, **facts)


def test_missing_files_are_named(tmp_path: Path) -> None:
    for name, file in FILES:
        facts = READING.get(name, {"model": "large"})
        with pytest.raises(InvalidValue, match="gone"):
            read_vector(tmp_path / "gone" / file, name, **facts)
    with pytest.raises(VectorUnreadable):
        read_vector(tmp_path, "lrt")


PAGE = (Path(__file__).parents[3] / "docs" / "formats.md").read_text()


def test_the_page_names_every_format_and_what_must_be_given() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \|.*?\|(.*?)\|(.*?)\|$", PAGE, re.MULTILINE)
    assert {name for name, _, _ in rows} == set(FORMATS)
    for name, reading, writing in rows:
        for cell, function in ((reading, FORMATS[name].read), (writing, FORMATS[name].write)):
            arguments = [*inspect.signature(function).parameters.values()][1:]
            needed = {each.name for each in arguments if each.kind is each.KEYWORD_ONLY}
            asked = {each.name for each in arguments if each.default is each.empty}
            assert needed & asked <= set(re.findall(r"`(\w+)`", cell))


def test_the_page_s_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    example, _ = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    torch.testing.assert_close(names["again"].scaled(), 0.35 * names["french"].scaled())
    assert read_vector("french.gguf")[0].behaviour == "french"

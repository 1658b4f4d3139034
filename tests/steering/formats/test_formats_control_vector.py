from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lrt.steering.formats.control_vector as module
from lrt.errors import InvalidValue
from lrt.steering import SteeringVector, VectorUnreadable, read_control_vector, write_control_vector
from lrt.steering.formats.directions import STORED


def made(layer: int = 2, seed: int = 0) -> SteeringVector:
    direction = torch.randn(48, generator=torch.Generator().manual_seed(seed))
    return SteeringVector(
        direction, layer, "large", 3.5, "french", prompts="abc", map={"fingerprint": "f", "reading": "W v"}
    )


def by_another(
    file: Path,
    directions: dict[str, np.ndarray],
    architecture: str = "controlvector",
    hint: str | None = "llama",
) -> Path:
    """A control vector as repeng and llama.cpp's generator write it."""
    writer = gguf.GGUFWriter(file, architecture)
    if hint is not None:
        writer.add_string("controlvector.model_hint", hint)
    writer.add_uint32("controlvector.layer_count", len(directions))
    for name, direction in directions.items():
        writer.add_tensor(name, direction)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_the_file_is_what_llama_cpp_and_repeng_read(tmp_path: Path) -> None:
    vectors = [made(3, 1), made(2, 0)]
    write_control_vector(vectors, tmp_path / "french.gguf")
    reader = gguf.GGUFReader(tmp_path / "french.gguf")
    assert reader.fields["general.architecture"].contents() == "controlvector"
    assert reader.fields["controlvector.model_hint"].contents() == "large"
    assert reader.fields["controlvector.layer_count"].contents() == 2
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert set(tensors) == {"direction.2", "direction.3"}
    for vector in vectors:
        tensor = tensors[f"direction.{vector.layer}"]
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32  # llama.cpp takes no other
        assert tensor.data.shape == (48,)
        np.testing.assert_array_equal(tensor.data, vector.scaled().numpy())


def test_reading_gives_the_same_steering(tmp_path: Path) -> None:
    vectors = [made(2), made(3, 1)]
    write_control_vector(vectors, tmp_path / "french.gguf")
    for before, after in zip(vectors, read_control_vector(tmp_path / "french.gguf"), strict=True):
        torch.testing.assert_close(after.scaled(), before.scaled())
        assert after.residual_norm == pytest.approx(before.residual_norm)
        same = replace(after, direction=before.direction, residual_norm=before.residual_norm)
        assert {**vars(same), "direction": 0} == {**vars(before), "direction": 0}


def test_one_vector_and_many_are_written_alike(tmp_path: Path) -> None:
    write_control_vector(made(), tmp_path / "a")
    write_control_vector([made()], tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_vectors_of_other_software_steer_by_their_own_length(tmp_path: Path) -> None:
    directions = {f"direction.{i}": np.full(8, i, dtype=np.float32) for i in (2, 1)}
    one, two = read_control_vector(by_another(tmp_path / "v.gguf", directions), model="own", behaviour="dogs")
    assert (one.layer, two.layer, one.model, one.map, one.behaviour) == (1, 2, "own", None, "dogs")
    assert one.unit == STORED
    torch.testing.assert_close(two.scaled(), torch.full((8,), 2.0))
    assert two.residual_norm == pytest.approx(2 * 8**0.5)
    (_, normed) = read_control_vector(tmp_path / "v.gguf", model="own", residual_norm={1: 3.0, 2: 4.0})
    assert float(normed.scaled().norm()) == pytest.approx(4)
    with pytest.raises(InvalidValue, match="residual_norm"):
        read_control_vector(tmp_path / "v.gguf", model="own", residual_norm={1: 3.0})
    with pytest.raises(InvalidValue, match=r"model=.*'llama'"):  # the hint is no model's name
        read_control_vector(tmp_path / "v.gguf")


def test_the_generator_of_llama_cpp_names_a_block_s_output_by_the_next_block(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its `direction.(il + 1)` is block `il`'s output."""
    outputs = [np.full(8, 1 + block, np.float32) for block in range(3)]
    file = by_another(tmp_path / "v.gguf", {f"direction.{il + 1}": outputs[il] for il in range(3)})
    caplog.set_level("INFO")
    for convention, moved in (("cvector-generator", 0), ("block", 1), (None, 1)):
        caplog.clear()
        vectors = read_control_vector(file, model="own", convention=convention)
        assert [vector.layer for vector in vectors] == [il + moved for il in range(3)]
        for vector, output in zip(vectors, outputs, strict=True):
            np.testing.assert_array_equal(vector.direction, output)
        assert repr(convention or "block") in caplog.text  # the import says which it took
    with pytest.raises(InvalidValue, match="convention"):
        read_control_vector(file, model="own", convention="llama.cpp")  # type: ignore[arg-type]
    embedded = by_another(tmp_path / "zero.gguf", {"direction.0": outputs[0]})
    with pytest.raises(InvalidValue, match="convention"):
        read_control_vector(embedded, model="own", convention="cvector-generator")


def test_a_file_of_ours_contradicts_whoever_says_otherwise(tmp_path: Path) -> None:
    write_control_vector(made(), tmp_path / "v.gguf")
    for said in ({"convention": "cvector-generator"}, {"residual_norm": 2.0}, {"behaviour": "dogs"}):
        with pytest.raises(InvalidValue, match=next(iter(said))):
            read_control_vector(tmp_path / "v.gguf", **said)  # type: ignore[arg-type]
    assert read_control_vector(tmp_path / "v.gguf", convention="block", model="own")[0].model == "own"


def test_a_control_vector_without_a_hint_or_in_half_precision_is_read(tmp_path: Path) -> None:
    half = {"direction.4": np.linspace(-1, 1, 8, dtype=np.float16)}
    (vector,) = read_control_vector(by_another(tmp_path / "v.gguf", half, hint=None), model="own")
    torch.testing.assert_close(vector.direction, torch.from_numpy(half["direction.4"].astype(np.float32)))


@pytest.mark.parametrize(
    ("vectors", "named"),
    [
        ([], "got none"),
        ([made(0)], "block 0"),
        ([made(2), made(2, 1)], r"\[2, 2\]"),
        ([made(1), replace(made(2), model="other")], "'other'"),
        ([made(1), replace(made(2), behaviour="dogs")], "'dogs'"),
        ([replace(made(2), operation="ablate")], "operation='ablate'"),
        ([replace(made(2), direction=torch.zeros(48))], "'french'"),
    ],
)
def test_vectors_that_such_a_file_cannot_hold(
    vectors: list[SteeringVector], named: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidValue, match=named):
        write_control_vector(vectors, tmp_path / "v.gguf")
    assert list(tmp_path.iterdir()) == []


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(VectorUnreadable, match=r"gone\.gguf does not exist"):
        read_control_vector(tmp_path / "gone.gguf")
    (tmp_path / "text.gguf").write_text("no such thing at all")
    with pytest.raises(VectorUnreadable, match=r"text\.gguf"):
        read_control_vector(tmp_path / "text.gguf")
    model = by_another(tmp_path / "model.gguf", {"direction.1": np.ones(4, dtype=np.float32)}, "llama")
    with pytest.raises(VectorUnreadable, match=r"model\.gguf.*'llama'"):
        read_control_vector(model)
    with pytest.raises(VectorUnreadable, match="not zero"):
        read_control_vector(by_another(tmp_path / "empty.gguf", {}), model="own")
    for name in ("direction.x", "blk.1.weight", "direction.01", "direction.١"):
        with pytest.raises(VectorUnreadable, match=name):
            read_control_vector(by_another(tmp_path / "odd.gguf", {name: np.ones(4, dtype=np.float32)}))


@pytest.mark.parametrize(
    "tensors",
    [
        {"7": np.ones(32, dtype=np.float32)},
        {"direction.1": np.ones(32, np.float32), "direction.2": np.ones(4, np.float32)},
        {"direction.1": np.ones((2, 2), np.float32)},
        {"direction.1": np.ones(32, np.float32), "direction.01": np.zeros(32, np.float32)},
    ],
)
def test_tensors_that_are_not_directions(tensors: dict[str, np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(VectorUnreadable, match=r"v\.gguf"):
        read_control_vector(by_another(tmp_path / "v.gguf", tensors), model="own")


def test_directions_of_zeros_add_nothing_and_are_skipped(tmp_path: Path) -> None:
    zero, one = np.zeros(8, np.float32), np.ones(8, np.float32)
    some = by_another(tmp_path / "some.gguf", {"direction.1": zero, "direction.2": one})
    assert [vector.layer for vector in read_control_vector(some, model="own")] == [2]
    with pytest.raises(VectorUnreadable):
        read_control_vector(by_another(tmp_path / "none.gguf", {"direction.1": zero}), model="own")
    with pytest.raises(InvalidValue):
        write_control_vector(replace(made(), residual_norm=0.0), tmp_path / "written.gguf")


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_directions_that_overflowed_half_precision_are_unreadable(value: float, tmp_path: Path) -> None:
    direction = np.array([1, value], np.float16)
    with pytest.raises(VectorUnreadable):
        read_control_vector(by_another(tmp_path / "a.gguf", {"direction.1": direction}), model="own")


def test_quantised_directions_are_refused(tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType.Q8_0
    writer = gguf.GGUFWriter(tmp_path / "v.gguf", "controlvector")
    rows = gguf.quants.quantize(np.ones((1, 64), dtype=np.float32), kind)
    writer.add_tensor("direction.1", rows, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(VectorUnreadable, match="Q8_0"):
        read_control_vector(tmp_path / "v.gguf")


def test_without_the_package_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(module.PackageMissing, match=r"pip install -e '\.\[gguf\]'"):
        write_control_vector(made(), tmp_path / "v.gguf")


@settings(max_examples=50, deadline=None)
@given(at=st.integers(0, 10_000), bit=st.integers(0, 7), cut=st.booleans())
def test_damage_raises_or_changes_nothing(
    at: int, bit: int, cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("damaged") / "v.gguf"
    write_control_vector(made(), file)
    whole = bytearray(file.read_bytes())
    at %= len(whole)
    if cut:
        file.write_bytes(whole[:at])
    else:
        whole[at] ^= 1 << bit
        file.write_bytes(whole)
    try:
        (vector,) = read_control_vector(file, model="large")
    except VectorUnreadable:
        return
    torch.testing.assert_close(vector.scaled(), made().scaled())
    # with the card's own name damaged it is a file of other software
    assert (vector.map, vector.model) == (made().map, "large") or vector.unit == STORED


def test_a_model_is_refused_before_its_tensors_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_another(tmp_path / "model.gguf", {"direction.1": np.ones(8, dtype=np.float32)}, "llama")
    monkeypatch.setattr(gguf, "GGUFReader", None)
    with pytest.raises(VectorUnreadable, match="llama"):
        read_control_vector(tmp_path / "model.gguf", model="own")
    with (tmp_path / "large.gguf").open("wb") as file:
        file.truncate(2**28 + 1)
    with pytest.raises(VectorUnreadable, match="bytes"):
        read_control_vector(tmp_path / "large.gguf", model="own")

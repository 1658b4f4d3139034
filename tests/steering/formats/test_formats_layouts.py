"""Files as the other software writes them, by its documented layout.

What they may hold beside additions at a block's output is refused by name."""

import base64
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import zstandard
from torch import Tensor

from lrt.errors import InvalidValue
from lrt.steering import SteeringVector
from lrt.steering.formats import (
    PackageMissing,
    entries_of_prompts,
    from_repeng,
    from_steering_vectors,
    prompts_of_entries,
    read_hotwire_norms,
    read_vector,
    to_repeng,
    to_steering_vectors,
    write_vectors,
)

VECTOR = SteeringVector(torch.linspace(-1, 1, 8), 2, "m", 2.0, "french")


def encoded(tensor: Tensor, compression: str | None = "zstd") -> dict[str, Any]:
    """A tensor as vllm-lens sends it: bfloat16 as the int16 of its bits."""
    plain = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
    data = plain.numpy().tobytes()
    fields = {"dtype": str(plain.numpy().dtype), "shape": list(tensor.shape)}
    if compression:
        data = zstandard.ZstdCompressor(level=1).compress(data)
        fields |= {"original_dtype": str(tensor.dtype), "compression": compression}
    return {"data": base64.b64encode(data).decode("ascii"), **fields}


def request(tensor: Tensor, layers: list[int], **more: Any) -> dict[str, Any]:
    return {"activations": encoded(tensor), "layer_indices": layers, **more}


@pytest.fixture
def lens(tmp_path: Path) -> Any:
    def read(contents: Any) -> list[SteeringVector]:
        (tmp_path / "v.json").write_text(json.dumps(contents))
        return read_vector(tmp_path / "v.json", model="m")

    return read


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_vllm_lens_requests_are_read(dtype: torch.dtype, lens: Any) -> None:
    rows = torch.tensor([[1.0, -2.0], [0.5, 4.0]], dtype=dtype)
    vectors = lens(request(rows, [5, 3], scale=-2.0, norm_match=False, position_indices=None))
    assert [vector.layer for vector in vectors] == [3, 5]
    torch.testing.assert_close(vectors[1].scaled(), -2 * rows[0].float())
    # several requests, and the plain floats of older releases
    old = {"activations": encoded(rows.float(), None), "layer_indices": [1, 7]}
    assert [vector.layer for vector in lens([request(rows, [5, 3]), old])] == [1, 3, 5, 7]


def test_the_written_request_is_what_vllm_lens_decodes(tmp_path: Path) -> None:
    write_vectors([VECTOR], tmp_path / "v.json", strength=0.25)
    (sent,) = json.loads((tmp_path / "v.json").read_text())
    fields = sent.pop("activations")
    assert sent == {"layer_indices": [2], "scale": 0.25, "norm_match": False, "position_indices": None}
    raw = zstandard.ZstdDecompressor().decompress(base64.b64decode(fields["data"]))
    array = np.frombuffer(raw, dtype=np.dtype(fields["dtype"])).reshape(fields["shape"])
    np.testing.assert_array_equal(array, VECTOR.scaled()[None].numpy())


ROWS = torch.ones(1, 4)


@pytest.mark.parametrize(
    ("contents", "named"),
    [
        (request(ROWS, [1], norm_match=True), "norm_match"),
        (request(ROWS, [1], norm_match=1), "norm_match"),
        (request(ROWS, [1], position_indices=[0]), "position"),
        (request(torch.ones(1, 2, 4), [1]), "shape"),
        (request(ROWS, [1, 2]), "layer_indices"),
        (request(ROWS, [1.5]), "layer"),  # type: ignore[list-item]
        (request(ROWS, [-1]), "layer"),
        (request(ROWS, [[1]]), "layer"),  # type: ignore[list-item]
        ([request(ROWS, [1]), request(ROWS, [1])], "two"),
        (request(ROWS, [1], scale="2"), "scale"),
        (request(ROWS * 0, [1]), "not zero"),
        ([], "not zero"),
        ([3], "request"),
        ({"activations": 3, "layer_indices": [1]}, "base64"),
        ({"activations": encoded(ROWS) | {"data": "%"}, "layer_indices": [1]}, "data"),
        ({"activations": encoded(ROWS) | {"data": "aGFsbG8="}, "layer_indices": [1]}, "data"),
        ({"activations": encoded(ROWS) | {"shape": [1, 3]}, "layer_indices": [1]}, "bytes"),
        ({"activations": encoded(ROWS) | {"shape": [2**40, 2**40]}, "layer_indices": [1]}, "shape"),
        ({"activations": encoded(ROWS) | {"shape": [-1, -4]}, "layer_indices": [1]}, "shape"),
        ({"activations": encoded(ROWS) | {"shape": None}, "layer_indices": [1]}, "shape"),
        ({"activations": encoded(ROWS) | {"dtype": "O"}, "layer_indices": [1]}, "dtype"),
        ({"activations": encoded(ROWS) | {"original_dtype": "torch.int8"}, "layer_indices": [1]}, "dtype"),
        ({"activations": encoded(ROWS) | {"compression": "pickle"}, "layer_indices": [1]}, "compression"),
    ],
)
def test_requests_that_are_no_vector_at_every_position(contents: Any, named: str, lens: Any) -> None:
    with pytest.raises(InvalidValue, match=rf"v\.json.*{named}"):
        lens(contents)


def test_a_request_unpacks_no_more_than_its_shape(lens: Any) -> None:
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(2**28))
    fields = encoded(ROWS) | {"data": base64.b64encode(bomb).decode()}
    with pytest.raises(InvalidValue, match="bytes"):
        lens({"activations": fields, "layer_indices": [1]})


ENTRY = {
    "steering_vector": torch.ones(4),
    "steering_coefficient": -2.0,
    "action": "add",
    "bias": None,
    "head_index": None,
}


def lm_eval(contents: Any, tmp_path: Path) -> list[SteeringVector]:
    torch.save(contents, tmp_path / "v.pt")
    return read_vector(tmp_path / "v.pt", "lm-eval", model="m")


@pytest.mark.parametrize(
    "module", ["layers.18", "h.18", "decoder.layers.18", "blocks.18", "encoder.layer.18"]
)
def test_lm_eval_files_are_read(module: str, tmp_path: Path) -> None:
    (vector,) = lm_eval({module: ENTRY}, tmp_path)
    assert vector.layer == 18
    torch.testing.assert_close(vector.scaled(), torch.full((4,), -2.0))
    bare = {"steering_vector": torch.ones(4), "action": "add"}
    assert float(lm_eval({module: bare}, tmp_path)[0].residual_norm) == pytest.approx(2)
    tensor = lm_eval({module: ENTRY | {"steering_coefficient": torch.tensor(3.0)}}, tmp_path)
    assert tensor[0].residual_norm == pytest.approx(6)


@pytest.mark.parametrize(
    ("contents", "named"),
    [
        ({"layers.18": ENTRY | {"action": "clamp"}}, "clamp"),
        ({"layers.18": ENTRY | {"bias": torch.ones(4)}}, "bias"),
        ({"layers.18": ENTRY | {"head_index": 0}}, "head_index"),
        ({"layers.18": ENTRY | {"steering_coefficient": "2"}}, "steering_coefficient"),
        ({"layers.18": ENTRY | {"steering_coefficient": float("nan")}}, "steering_coefficient"),
        ({"layers.18": {"steering_vector": torch.ones(4)}}, "action"),
        ({"layers.18": torch.ones(4)}, "action"),
        ({"layers.18.mlp": ENTRY}, "layers.18.mlp"),
        ({"layers.18.self_attn.o_proj": ENTRY}, "o_proj"),
        ({"blocks.18.hook_resid_pre": ENTRY}, "hook_resid_pre"),
        ({"layers.018": ENTRY}, "layers.018"),
        ({"layers": ENTRY}, "layers"),
        ({18: ENTRY}, "18"),
        ({"layers.18": ENTRY, "h.18": ENTRY}, "18"),
        ({}, "entry"),
        (torch.ones(4), "entry"),
    ],
)
def test_lm_eval_files_that_are_no_addition_to_a_block(contents: Any, named: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match=named):
        lm_eval(contents, tmp_path)


def hotwire(contents: Any, tmp_path: Path, **facts: Any) -> list[SteeringVector]:
    torch.save(contents, tmp_path / "v.pt")
    return read_vector(tmp_path / "v.pt", "hotwire", model="m", **facts)


def test_hotwire_files_are_read(tmp_path: Path) -> None:
    table = torch.zeros(5, 4)
    table[1], table[3] = 1, 2
    for contents in (table, {"anything": table}):
        assert [vector.layer for vector in hotwire(contents, tmp_path)] == [1, 3]
        assert [vector.layer for vector in hotwire(contents, tmp_path, layer=3)] == [3]
    (one,) = hotwire(table[3], tmp_path, layer=7)
    assert (one.layer, one.residual_norm) == (7, 4)
    with pytest.raises(InvalidValue, match="layer="):  # the file does not say it
        hotwire(table[3], tmp_path)
    for layer in (5, -1, True, "3"):
        with pytest.raises(InvalidValue, match="layer"):
            hotwire(table, tmp_path, layer=layer)
    for odd in (
        {"a": table, "b": table},
        {},
        table[None],
        torch.zeros(0, 4),
        [table],
        table.int(),
        table * 0,
    ):
        with pytest.raises(InvalidValue, match=r"v\.pt"):
            hotwire(odd, tmp_path)


def test_hotwire_norms_are_the_length_of_strength_one(tmp_path: Path) -> None:
    table, norms = torch.zeros(3, 4), tmp_path / "norms.json"
    table[1] = 5
    for contents in ({"1": 54.9}, {"h_norms": {"1": 54.9, "2": 60}, "model": "m"}):
        norms.write_text(json.dumps(contents))
        (vector,) = hotwire(table, tmp_path, norms=norms)
        assert float(vector.scaled().norm()) == pytest.approx(54.9)
        assert "mean" in vector.unit  # not the median of vectors extracted here
    with pytest.raises(InvalidValue, match="norms"):
        hotwire(table, tmp_path, norms=norms, residual_norm=3.0)
    norms.write_text('{"2": 54.9}')
    with pytest.raises(InvalidValue, match="layer 1"):
        hotwire(table, tmp_path, norms=norms)
    for odd in ("[]", "{}", '{"x": 1}', '{"1": "2"}', '{"1": -1}', '{"1": true}', '{"1": 1', '{"١": 1}'):
        norms.write_text(odd)
        with pytest.raises(InvalidValue, match=str(norms)):
            read_hotwire_norms(norms)


def test_objects_of_other_packages_are_converted_without_them() -> None:
    theirs = SimpleNamespace(
        layer_activations={3: torch.ones(4), 1: torch.ones(4)}, layer_type="decoder_block"
    )
    assert [vector.layer for vector in from_steering_vectors(theirs, model="m")] == [1, 3]
    for kind in ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm", None):
        with pytest.raises(InvalidValue, match="layer_type"):
            from_steering_vectors(SimpleNamespace(**vars(theirs) | {"layer_type": kind}), model="m")
    control = SimpleNamespace(model_type="qwen2", directions={2: np.ones(4, np.float32)})
    assert from_repeng(control, model="m", residual_norm=3)[0].residual_norm == 3
    for odd in (
        SimpleNamespace(),
        3,
        SimpleNamespace(directions=[1]),
        SimpleNamespace(directions={-1: ROWS[0]}),
    ):
        with pytest.raises(InvalidValue):
            from_repeng(odd, model="m")
        with pytest.raises(InvalidValue):
            from_steering_vectors(odd, model="m")
    for model in ("", None):
        with pytest.raises(InvalidValue, match="model="):
            from_repeng(control, model=model)  # type: ignore[arg-type]


def test_dataset_entries_are_pairs_of_texts() -> None:
    entries = [SimpleNamespace(positive="yes", negative="no")]
    assert prompts_of_entries(entries) == (["yes"], ["no"])
    for odd in (SimpleNamespace(positive="yes"), ("yes", "no"), SimpleNamespace(positive=1, negative="no")):
        with pytest.raises(InvalidValue, match="entry 2"):
            prompts_of_entries([*entries, odd])
    with pytest.raises(InvalidValue, match="2 positives"):
        entries_of_prompts(["a", "b"], ["c"])


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("repeng", "steering_vectors"):
        monkeypatch.setattr(f"lrt.steering.formats.{module}.find_spec", lambda _: None)
    with pytest.raises(PackageMissing, match="pip install steering-vectors"):
        to_steering_vectors(VECTOR)
    with pytest.raises(PackageMissing, match="pip install repeng"):
        to_repeng(VECTOR, "llama")


def test_a_saved_object_of_steering_vectors_is_read_without_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass
    class Theirs:
        layer_activations: dict[int, Tensor]
        layer_type: str = "decoder_block"

    name = "steering_vectors.steering_vector"
    Theirs.__module__, Theirs.__qualname__, Theirs.__name__ = name, "SteeringVector", "SteeringVector"
    package, inner = ModuleType("steering_vectors"), ModuleType(name)
    inner.SteeringVector = Theirs  # type: ignore[attr-defined]
    package.steering_vector = inner  # type: ignore[attr-defined]
    for key, module in (("steering_vectors", package), (name, inner)):
        monkeypatch.setitem(sys.modules, key, module)
    buffer = io.BytesIO()
    torch.save(Theirs({4: torch.ones(3)}), buffer)
    monkeypatch.undo()
    (tmp_path / "v.pt").write_bytes(buffer.getvalue())
    (vector,) = read_vector(tmp_path / "v.pt", "steering-vectors", model="m")
    assert (vector.layer, vector.direction.tolist()) == (4, [1, 1, 1])
    with pytest.raises(InvalidValue, match="weights_only"):  # for every other format it is a foreign class
        read_vector(tmp_path / "v.pt", "lm-eval", model="m")
    for odd in (
        [1],
        3,
        {"layer_activations": {1: torch.ones(3)}, "layer_type": "mlp"},
        {"layer_type": 1},
        {},
    ):
        torch.save(odd, tmp_path / "v.pt")
        with pytest.raises(InvalidValue, match=r"v\.pt"):
            read_vector(tmp_path / "v.pt", "steering-vectors", model="m")

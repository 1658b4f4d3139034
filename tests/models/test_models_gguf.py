import shutil
import threading
import time
from collections import namedtuple
from pathlib import Path
from typing import Any
from unittest import mock

import gguf as package
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from gguf_files import BEGIN, ENDED, TEMPLATE, TEXTS, TOKENS, original, write_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer

from lrt.models import LanguageModel, ModelNotLoadable, ModelSpec, gguf, identity, load, load_tokenizer
from lrt.models.gguf_reader import fast_reader, one_reader
from lrt.models.prompts import render_chat

TOKEN_IDS = torch.tensor([[5, 6, 7, 200, 3]])


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("gguf")
    return {
        "float32": write_gguf(folder / "plain.gguf", quantised=False),
        "blocks": write_gguf(folder / "blocks.gguf", quantised=True),
    }


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


def loaded(file: Path, cache: Path, dtype: Any = "float32") -> LanguageModel:
    return load(ModelSpec(str(file), dtype=dtype, device="cpu"), cache)


def theirs(file: Path, kind: Any, **more: Any) -> Any:
    """What transformers makes of the file by itself."""
    return kind.from_pretrained(file.parent, gguf_file=file.name, **more)


def test_a_file_of_plain_numbers_is_the_model_it_was_written_from(
    files: dict[str, Path], cache: Path
) -> None:
    lm = loaded(files["float32"], cache)
    assert torch.equal(lm.logits(TOKEN_IDS), original()(TOKEN_IDS).logits)
    assert (lm.depth, lm.width, lm.spec.name) == (3, 32, "plain")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_blocks_become_what_transformers_makes_of_them(
    files: dict[str, Path], cache: Path, dtype: str
) -> None:
    lm = loaded(files["blocks"], cache, dtype)
    own = theirs(files["blocks"], AutoModelForCausalLM, dtype=getattr(torch, dtype))
    assert lm.dtype == own.dtype == getattr(torch, dtype)
    assert torch.equal(lm.logits(TOKEN_IDS), own(TOKEN_IDS).logits.float())
    # and they are blocks: another model than the one they were made of
    assert not torch.allclose(lm.logits(TOKEN_IDS), original()(TOKEN_IDS).logits, atol=1e-2)


def test_the_tokenizer_comes_along_with_its_chat_template(files: dict[str, Path], cache: Path) -> None:
    tokenizer = load_tokenizer(ModelSpec(str(files["blocks"])), cache)
    own = theirs(files["blocks"], AutoTokenizer)
    assert tokenizer.chat_template == own.chat_template == TEMPLATE
    assert (tokenizer.bos_token, tokenizer.eos_token) == (BEGIN, ENDED)
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert ids == own(text)["input_ids"]
        assert tokenizer.decode(ids) == text
    assert tokenizer("once upon")["input_ids"] == [TOKENS.index("once"), TOKENS.index("Ġupon")]
    assert render_chat(tokenizer, "once") == f"<|im_start|>user\nonce{ENDED}\n<|im_start|>assistant\n"


class Again(BaseException):
    """A file that is dequantised again; no kind of error that loading explains."""


def test_a_file_is_dequantised_once_and_random_weights_need_it_no_more(
    files: dict[str, Path], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = loaded(files["blocks"], cache).logits(TOKEN_IDS)

    def refuse(*_: Any) -> None:
        raise Again

    monkeypatch.setattr(gguf, "convert", refuse)
    copy = Path(shutil.copy(files["blocks"], tmp_path / "elsewhere.gguf"))  # the content counts
    assert torch.equal(loaded(copy, cache).logits(TOKEN_IDS), first)
    random = load(ModelSpec(str(copy), dtype="float32", weights="random"), cache)
    assert not torch.equal(random.logits(TOKEN_IDS), first)
    # the control: a change of one value is another file
    changed = copy.read_bytes()
    copy.write_bytes(changed[:-1] + bytes([changed[-1] ^ 1]))
    with pytest.raises(Again):
        loaded(copy, cache)


def test_one_reader_has_the_packages_fields_and_tensors(files: dict[str, Path], tmp_path: Path) -> None:
    for path in (*files.values(), every_type(tmp_path / "types.gguf")):
        theirs, ours = GGUFReader(path), fast_reader(path)
        assert list(ours.fields) == list(theirs.fields)
        for name, field in theirs.fields.items():
            own = ours.fields[name]
            assert (own.offset, own.data, own.types) == (field.offset, field.data, field.types), name
            assert [part.tolist() for part in own.parts] == [part.tolist() for part in field.parts], name
            assert own.contents() == field.contents(), name
        assert [each.name for each in ours.tensors] == [each.name for each in theirs.tensors]
        for own, tensor in zip(ours.tensors, theirs.tensors, strict=True):
            assert own.data.tobytes() == tensor.data.tobytes()
    assert path.name == "types.gguf"
    assert "list.text" in ours.fields


def every_type(path: Path) -> Path:
    """A file without tensors, with a value and an array of each type that the format has."""
    writer = GGUFWriter(path, "none")
    numbers = {"uint8": 200, "int8": -3, "uint16": 60000, "int16": -300, "uint32": 7, "int32": -70000}
    numbers |= {"uint64": 2**40, "int64": -(2**40)}
    values = {**numbers, "float32": 1.5, "float64": -0.1, "bool": True}
    for name, value in values.items():
        getattr(writer, f"add_{name}")(f"one.{name}", value)
    for name, each in {"numbers": [3, -4], "floats": [0.5], "flags": [True, False]}.items():
        writer.add_array(f"list.{name}", each)
    writer.add_array("list.text", ["", "où", "a" * 300])
    writer.add_array("list.of_lists", [[1, 2], [3]])
    writer.add_uint8("last", 1)  # no four bytes follow it
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_a_file_is_read_once_while_it_is_converted(files: dict[str, Path], tmp_path: Path) -> None:
    usual = package.GGUFReader
    with mock.patch.object(usual, "_build_fields", autospec=True, side_effect=usual._build_fields) as read:
        gguf.convert(files["blocks"], torch.float32, tmp_path)
        assert read.call_count == 1
    assert package.GGUFReader is usual
    # other files are read as ever meanwhile, and a failed conversion leaves nothing behind
    with one_reader(files["blocks"]):
        assert package.GGUFReader(files["blocks"]) is package.GGUFReader(str(files["blocks"]))
        assert type(package.GGUFReader(files["float32"])) is usual
    with pytest.raises(RuntimeError), one_reader(files["blocks"]):
        raise RuntimeError
    assert package.GGUFReader is usual


def test_identity_is_the_files_own(files: dict[str, Path], cache: Path, tmp_path: Path) -> None:
    def of(path: Path, **more: Any) -> dict[str, Any]:
        return identity(ModelSpec(str(path), **more), cache)

    copy = Path(shutil.copy(files["blocks"], tmp_path / "elsewhere.gguf"))
    assert of(copy, dtype="float32", name="x") == of(files["blocks"], dtype="float32")
    assert of(files["float32"], dtype="float32") != of(files["blocks"], dtype="float32")
    # so narrow a model runs in float32 on a CPU; but its numbers came through bfloat16
    auto = of(copy, device="cpu")
    assert (auto["dtype"], auto["stored"]) == ("float32", "bfloat16")
    assert auto != of(copy, dtype="float32")
    assert str(tmp_path) not in str(auto)
    assert str(cache) not in str(auto)


def test_a_partly_written_folder_never_counts(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, broken = gguf.convert, [True]

    def breaks(path: Path, dtype: torch.dtype, folder: Path) -> None:
        write(path, dtype, folder)
        if broken:
            (folder / "model.safetensors").unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(gguf, "convert", breaks)
    with pytest.raises(KeyboardInterrupt):
        loaded(files["float32"], tmp_path)
    assert [*(tmp_path / "gguf").iterdir()] == []
    # a killed process has no time to clear up; the next writer does
    (tmp_path / "gguf" / "some.tmp-1").mkdir()
    broken.clear()
    lm = loaded(files["float32"], tmp_path)
    assert torch.equal(lm.logits(TOKEN_IDS), original()(TOKEN_IDS).logits)
    (kept,) = (tmp_path / "gguf").iterdir()
    assert ".tmp-" not in kept.name


def test_of_two_at_once_one_works_and_the_other_waits(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, made = gguf.convert, []

    def slowly(path: Path, dtype: torch.dtype, folder: Path) -> None:
        made.append(folder)
        time.sleep(0.2)
        write(path, dtype, folder)

    monkeypatch.setattr(gguf, "convert", slowly)
    found: list[Path] = []

    def work() -> None:
        found.append(gguf.dequantise(files["float32"], torch.float32, tmp_path))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(found) == 2
    assert len(set(found)) == 1


@pytest.mark.parametrize("length", [0, 30, 3000, 20000, -500])
def test_a_file_that_ends_early_is_named(files: dict[str, Path], tmp_path: Path, length: int) -> None:
    short = tmp_path / "short.gguf"
    short.write_bytes(files["blocks"].read_bytes()[:length])
    with pytest.raises(ModelNotLoadable):
        loaded(short, tmp_path / "kept")


def test_a_file_that_lacks_a_tensor_is_not_filled_up(tmp_path: Path) -> None:
    lacking = write_gguf(tmp_path / "gap.gguf", quantised=True, exclude="model.layers.1.mlp.up_proj.weight")
    with pytest.raises(ModelNotLoadable):
        loaded(lacking, tmp_path / "kept")
    assert [*(tmp_path / "kept" / "gguf").iterdir()] == []


def test_one_of_several_parts_is_refused(tmp_path: Path) -> None:
    part = tmp_path / "big-00001-of-00003.gguf"
    part.touch()
    with pytest.raises(ModelNotLoadable):
        load(ModelSpec(str(part)), tmp_path)


def test_the_setting_of_the_cache_is_named_where_it_cannot_be_written(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kept").write_text("a file, and no folder")
    with pytest.raises(ModelNotLoadable):
        loaded(files["float32"], tmp_path / "kept")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(gguf.shutil, "disk_usage", lambda _: usage(1, 1, 1000))
    with pytest.raises(ModelNotLoadable):
        loaded(files["float32"], tmp_path / "other")
    assert [*(tmp_path / "other" / "gguf").iterdir()] == []

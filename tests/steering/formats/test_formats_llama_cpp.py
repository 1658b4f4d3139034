"""Control vectors in llama.cpp itself, on a tiny model in float32 whose logits it shares with transformers.

`make test-packages` runs these with the package llama-cpp-python. With `LRT_LLAMA_CPP` set to a folder of
llama.cpp's programs, its own loader and its own generator of control vectors are run too."""

import ctypes
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf_files import TOKENS, original, write_gguf
from torch import Tensor

from lrt.models import LanguageModel, ModelSpec, load
from lrt.steering import SteeringVector, read_vector, steer, write_vectors

pytestmark = pytest.mark.packages

STRENGTH, BLOCKS, WIDTH = 0.4, 4, 32
TEXT = list(range(20, 40))
Run = Callable[[Path | None, float], Tensor]


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("llama") / "tiny.gguf", quantised=False, blocks=BLOCKS)


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return LanguageModel(ModelSpec("tiny"), original(blocks=BLOCKS))


@pytest.fixture
def vectors() -> list[SteeringVector]:
    generator = torch.Generator().manual_seed(0)
    return [SteeringVector(torch.randn(WIDTH, generator=generator), layer, "tiny", 3.0) for layer in (1, 3)]


@pytest.fixture(scope="module")
def llama_cpp(model_file: Path) -> Run:
    """llama.cpp's logits `[tokens, V]` of the text, with the control vector of a file at a scale."""
    package = pytest.importorskip("llama_cpp")
    package.llama_backend_init()
    model = package.llama_model_load_from_file(str(model_file).encode(), package.llama_model_default_params())

    def run(file: Path | None = None, scale: float = 1.0) -> Tensor:
        settings = package.llama_context_default_params()
        settings.n_ctx, settings.n_threads, settings.n_threads_batch = 64, 1, 1
        settings.type_k = settings.type_v = settings.flash_attn_type = 0  # float32, no flash attention
        context = package.llama_init_from_model(model, settings)
        if file is not None:
            data = scale * loaded(file)
            apply = package.llama_set_adapter_cvec
            numbers = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            assert apply(context, numbers, data.size, WIDTH, 1, BLOCKS) == 0
        batch = package.llama_batch_init(len(TEXT), 0, 1)
        batch.n_tokens = len(TEXT)
        for i, token in enumerate(TEXT):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
            batch.seq_id[i][0] = 0
        assert package.llama_decode(context, batch) == 0
        shape = (len(TEXT), len(TOKENS))
        logits = np.ctypeslib.as_array(package.llama_get_logits(context), shape=shape).copy()
        package.llama_batch_free(batch)
        package.llama_free(context)
        return torch.from_numpy(logits)

    return run


def loaded(file: Path) -> Any:  # float32 [direction.1 | direction.2 | ...]
    """What llama.cpp's own loader passes on: `direction.N` is the N-th part."""
    import gguf

    data = np.zeros((BLOCKS, WIDTH), dtype=np.float32)
    for tensor in gguf.GGUFReader(file).tensors:
        data[int(tensor.name.removeprefix("direction.")) - 1] = tensor.data
    return data


def ours(lm: LanguageModel, vectors: list[SteeringVector], strength: float) -> Tensor:
    with steer(lm, vectors[0], strength):
        if len(vectors) > 1:
            return ours(lm, vectors[1:], strength)
        with torch.no_grad():
            return lm.model(input_ids=torch.tensor([TEXT])).logits[0]


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_a_file_of_ours_steers_as_hooks_do(
    llama_cpp: Run, lm: LanguageModel, vectors: list[SteeringVector], tmp_path: Path
) -> None:
    plain = llama_cpp(None, 1.0)
    same(plain, lm.model(input_ids=torch.tensor([TEXT])).logits[0].detach())
    for some in (vectors, vectors[:1], vectors[1:]):
        write_vectors(some, tmp_path / "v.gguf")
        steered = llama_cpp(tmp_path / "v.gguf", STRENGTH)
        assert (steered - plain).abs().max() > 0.1
        same(steered, ours(lm, some, STRENGTH))


def test_a_file_is_added_where_the_convention_block_reads_it(
    llama_cpp: Run, lm: LanguageModel, vectors: list[SteeringVector], tmp_path: Path
) -> None:
    """Whoever wrote a file: llama.cpp adds direction.N at block N, one after the block at which the other
    convention says it was read."""
    write_vectors(vectors, tmp_path / "v.gguf")
    theirs = without_card(tmp_path / "v.gguf")
    steered = llama_cpp(theirs, STRENGTH)
    same(ours(lm, read_vector(theirs, model="tiny", convention="block"), STRENGTH), steered)
    before = read_vector(theirs, model="tiny", convention="cvector-generator")
    assert [vector.layer for vector in before] == [0, 2]
    assert (ours(lm, before, STRENGTH) - steered).abs().max() > 0.1


def without_card(file: Path) -> Path:
    """A file as other software writes it."""
    import gguf

    theirs = file.with_name("theirs.gguf")
    writer = gguf.GGUFWriter(theirs, "controlvector")
    writer.add_string("controlvector.model_hint", "qwen2")
    for tensor in gguf.GGUFReader(file).tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return theirs


def program(name: str, *arguments: str, cwd: Path) -> str:
    """What a program of llama.cpp prints."""
    folder = os.environ.get("LRT_LLAMA_CPP")
    if folder is None:
        pytest.skip("LRT_LLAMA_CPP is not set")
    command = [str(Path(folder) / name), *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, timeout=300, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.decode(errors="replace")  # a tiny model says any bytes


def test_llama_cpp_s_own_loader(model_file: Path, vectors: list[SteeringVector], tmp_path: Path) -> None:
    lm = load(ModelSpec(str(model_file), dtype="float32"), tmp_path / "cache")
    write_vectors(vectors, tmp_path / "v.gguf")
    prompt = "once upon a"
    texts = set()
    for strength in (0.0, 0.4, -0.8):
        text = program(
            "llama-completion",
            *("-m", str(model_file), "--control-vector-scaled", f"v.gguf:{strength}", "-p", prompt),
            *("-n", "12", "--temp", "0", "-no-cnv", "--no-display-prompt", "-t", "1", "-c", "64"),
            *("-ctk", "f32", "-ctv", "f32", "-fa", "off", "--simple-io"),
            cwd=tmp_path,
        )
        with steer(lm, vectors[0], strength), steer(lm, vectors[1], strength):
            expected = lm.generate(prompt, max_new_tokens=12)
        # its last sign may be half of a character
        assert text.strip().startswith(expected.strip().rstrip("\N{REPLACEMENT CHARACTER}"))
        texts.add(expected)
    assert len(texts) == 3


def test_llama_cpp_s_own_generator_is_one_off(model_file: Path, tmp_path: Path) -> None:
    """Its direction.N is the mean difference of the states that we read at block N-1."""
    lm = load(ModelSpec(str(model_file), dtype="float32"), tmp_path / "cache")
    pairs = [("a b c d e f g", "t v w x y z r"), ("1 2 3 4 5 6 7", "A B C D E F G")]
    for side, name in enumerate(("positive", "negative")):
        (tmp_path / f"{name}.txt").write_text("\n".join(pair[side] for pair in pairs) + "\n")
    program(
        "llama-cvector-generator",
        *("-m", str(model_file), "--method", "mean", "-o", "v.gguf", "-t", "1", "-c", "64"),
        *("--positive-file", "positive.txt", "--negative-file", "negative.txt"),
        cwd=tmp_path,
    )
    read = read_vector(tmp_path / "v.gguf", model="tiny", convention="cvector-generator")
    assert [vector.layer for vector in read] == [0, 1, 2]
    rows = [lm.tokenizer([*pair], return_tensors="pt")["input_ids"] for pair in pairs]
    states = [lm.hidden_states(tokens, range(BLOCKS)) for tokens in rows]

    def mean_difference(layer: int) -> Tensor:
        differences = torch.cat([each[layer][0] - each[layer][1] for each in states])
        return differences[(differences > 1e-6).any(dim=1)].mean(dim=0)  # the rows that it takes

    for vector in read:
        here, above = (
            torch.cosine_similarity(vector.direction, mean_difference(layer), dim=0)
            for layer in (vector.layer, vector.layer + 1)
        )
        assert here > 0.9999
        assert above < 0.99

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from model_families import tiny
from safetensors.torch import load_file, save_file
from transformers import Gemma2Config, Gemma2ForCausalLM

from lrt.errors import InvalidValue
from lrt.models import ModelNotLoadable, ModelSpec, gguf, identity, load, load_tokenizer, loading

TOKENS = torch.tensor([[5, 6, 7]])


@pytest.fixture
def own_checkpoint(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))


def test_a_local_folder_loads_with_its_tokenizer(checkpoint: Path) -> None:
    lm = load(ModelSpec(str(checkpoint), device="cpu"))
    # bfloat16 weights of so narrow a model run in float32 on a CPU
    assert lm.dtype == torch.float32
    assert lm.device.type == "cpu"
    assert lm.tokenizer("once upon")["input_ids"] == [1, 2]
    expected = tiny("llama").model.to(torch.bfloat16).to(torch.float32)
    stored = dict(lm.model.named_parameters())
    for name, value in expected.named_parameters():
        assert torch.equal(stored[name], value), name


def test_the_dtype_asked_for_is_the_dtype_run(checkpoint: Path) -> None:
    lm = load(ModelSpec(str(checkpoint), dtype="bfloat16", device="cpu"))
    assert lm.dtype == torch.bfloat16
    assert lm.hidden_states(TOKENS, [1])[1].dtype == torch.bfloat16
    assert lm.logits(TOKENS).dtype == torch.float32


def test_random_weights_follow_their_seed_and_disturb_no_other_draw(checkpoint: Path) -> None:
    def weights(seed: int, kind: str = "random") -> torch.Tensor:
        spec = ModelSpec(str(checkpoint), weights=kind, seed=seed, device="cpu")  # type: ignore[arg-type]
        return load(spec).blocks[0].self_attn.q_proj.weight

    state = torch.random.get_rng_state()
    first = weights(0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))
    assert not torch.equal(first, weights(0, "trained"))


def test_identity_depends_on_content_and_not_on_path(checkpoint: Path, own_checkpoint: Path) -> None:
    here, there = ModelSpec(str(checkpoint)), ModelSpec(str(own_checkpoint), name="other")
    assert identity(here) == identity(there)
    assert str(checkpoint) not in str(identity(here))
    weights = own_checkpoint / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert identity(here) != identity(there)


def test_identity_differs_where_numbers_differ(checkpoint: Path) -> None:
    path = str(checkpoint)
    specs = [
        ModelSpec(path, dtype="float32"),
        ModelSpec(path, dtype="bfloat16"),
        ModelSpec(path, dtype="float32", weights="random"),
        ModelSpec(path, dtype="float32", weights="random", seed=1),
    ]
    found = [identity(spec) for spec in specs]
    assert all(a != b for i, a in enumerate(found) for b in found[:i])
    # and not what gives the same: auto is resolved
    assert identity(ModelSpec(path, device="cpu")) == found[0]
    with pytest.raises(InvalidValue):
        ModelSpec(path, seed=3)
    with pytest.raises(ModelNotLoadable):
        identity(ModelSpec(path, revision="v1"))


def test_identity_of_random_weights_does_not_read_the_trained_ones(own_checkpoint: Path) -> None:
    spec = ModelSpec(str(own_checkpoint), weights="random")
    before = identity(spec)
    (own_checkpoint / "model.safetensors").unlink()
    assert identity(spec) == before


def test_a_hub_models_identity_is_its_id_and_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("llama").model.config
    monkeypatch.setattr(loading, "load_config", lambda *_: config)
    spec = ModelSpec("someone/model", revision="v1", dtype="float32")
    assert identity(spec) == {
        "weights": "trained",
        "dtype": "float32",
        "hub": "someone/model",
        "revision": "v1",
    }
    monkeypatch.setattr(config, "_commit_hash", "0123abcd", raising=False)
    assert identity(spec)["revision"] == "0123abcd"


def test_a_missing_tensor_is_an_error_and_not_a_random_one(own_checkpoint: Path) -> None:
    weights = own_checkpoint / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.layers.2.mlp.up_proj.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ModelNotLoadable):
        load(ModelSpec(str(own_checkpoint)))


@pytest.mark.parametrize("blocks", [None, 1])
@pytest.mark.parametrize("changed", [{"intermediate_size": 64}, {"vocab_size": 99}, {"head_dim": 16}])
def test_a_config_of_other_shapes_than_the_weights_is_an_error(
    own_checkpoint: Path, changed: dict[str, int], blocks: int | None
) -> None:
    config = json.loads((own_checkpoint / "config.json").read_text())
    (own_checkpoint / "config.json").write_text(json.dumps(config | changed))
    with pytest.raises(ModelNotLoadable):
        load(ModelSpec(str(own_checkpoint)), blocks=blocks)


@pytest.mark.parametrize("blocks", [None, 1])
def test_stored_blocks_that_the_config_leaves_out_are_an_error(
    own_checkpoint: Path, blocks: int | None
) -> None:
    config = json.loads((own_checkpoint / "config.json").read_text())
    depth = config["num_hidden_layers"]
    (own_checkpoint / "config.json").write_text(json.dumps(config | {"num_hidden_layers": depth - 1}))
    with pytest.raises(ModelNotLoadable, match=f"block {depth - 1}.*num_hidden_layers={depth - 1}"):
        load(ModelSpec(str(own_checkpoint)), blocks=blocks)


def test_a_layer_that_predicts_several_tokens_is_no_block_left_out(own_checkpoint: Path) -> None:
    weights = own_checkpoint / "model.safetensors"
    tensors = load_file(weights)
    depth = 1 + max(int(name.split(".")[2]) for name in tensors if ".layers." in name)
    last = {name: value for name, value in tensors.items() if f".{depth - 1}." in name}
    own = {name.replace(f".{depth - 1}.", f".{depth}."): value.clone() for name, value in last.items()}
    own[f"model.layers.{depth}.eh_proj.weight"] = torch.ones(2, 2)
    save_file(tensors | own, weights, metadata={"format": "pt"})
    assert load(ModelSpec(str(own_checkpoint))).depth == depth


def test_pickled_weights_are_not_read(own_checkpoint: Path) -> None:
    weights = own_checkpoint / "model.safetensors"
    torch.save(load_file(weights), own_checkpoint / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ModelNotLoadable):
        load(ModelSpec(str(own_checkpoint)))


def test_truncated_weights_are_an_error(own_checkpoint: Path) -> None:
    weights = own_checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelNotLoadable):
        load(ModelSpec(str(own_checkpoint)))


DEEP = '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
@pytest.mark.parametrize(
    "text", [DEEP, "[1]", "[]", "1", "", "\ufeff{}", '{"a": 1'], ids=lambda text: text[:6]
)
def test_unreadable_json_of_a_checkpoint_is_named(own_checkpoint: Path, name: str, text: str) -> None:
    (own_checkpoint / name).write_text(text, encoding="utf-8")
    with pytest.raises(ModelNotLoadable) as caught:
        load(ModelSpec(str(own_checkpoint), device="cpu"))
    assert f"{name} is" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_attention_heads", 0),
        ("hidden_size", "x"),
        ("rms_norm_eps", None),
        *(("num_hidden_layers", value) for value in (2.5, 0, -1, 10**9)),
    ],
)
def test_a_value_that_no_config_has_is_named(own_checkpoint: Path, name: str, value: object) -> None:
    config = json.loads((own_checkpoint / "config.json").read_text())
    (own_checkpoint / "config.json").write_text(json.dumps(config | {name: value}))
    for read in (load, identity, loading.depth_and_width_of):
        with pytest.raises(ModelNotLoadable, match=name):
            read(ModelSpec(str(own_checkpoint), device="cpu"))


def test_a_fault_of_ours_in_loading_keeps_its_traceback(
    own_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(loading, "set_special_ends")
    with pytest.raises(NameError):
        load_tokenizer(ModelSpec(str(own_checkpoint)))


@pytest.mark.parametrize("path", ["/nowhere/model", "./nowhere", "~/nowhere/at-all", "a/b/c"])
def test_a_folder_that_is_not_there_is_named(path: str) -> None:
    with pytest.raises(ModelNotLoadable):
        load(ModelSpec(path))


def test_a_folder_without_a_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotLoadable):
        load_tokenizer(ModelSpec(str(tmp_path)))


def test_a_missing_tokenizer_is_named(own_checkpoint: Path) -> None:
    for file in own_checkpoint.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelNotLoadable):
        load_tokenizer(ModelSpec(str(own_checkpoint)))


def test_a_device_that_is_not_here_is_named(checkpoint: Path) -> None:
    with pytest.raises(ModelNotLoadable):
        load(ModelSpec(str(checkpoint), device="abacus"))


def test_a_gguf_file_wants_its_packages_and_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelNotLoadable):
        load(ModelSpec(str(tmp_path / "model.gguf")))
    (tmp_path / "model.gguf").touch()
    found = importlib.util.find_spec
    monkeypatch.setattr(gguf, "find_spec", lambda n: None if n == "gguf" else found(n))
    with pytest.raises(ModelNotLoadable):
        load(ModelSpec(str(tmp_path / "model.gguf")))


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen2", "gpt2", "gpt_neox"])
def test_the_first_blocks_alone_give_the_same_states(family: str, tmp_path: Path) -> None:
    tiny(family).model.save_pretrained(tmp_path)
    spec = ModelSpec(str(tmp_path), device="cpu")
    monkey = pytest.MonkeyPatch()
    monkey.setattr(loading, "load_tokenizer", lambda *_: None)
    try:
        whole, shallow = load(spec), load(spec, blocks=2)
    finally:
        monkey.undo()
    assert (len(shallow.blocks), shallow.depth) == (2, whole.depth)
    assert loading.depth_and_width_of(spec) == (whole.depth, whole.width)
    assert shallow.resolve_layer(0.5, "x") == whole.resolve_layer(0.5, "x")
    states, expected = (lm.hidden_states(TOKENS, [0, 1]) for lm in (shallow, whole))
    for layer in (0, 1):
        assert torch.equal(states[layer], expected[layer])
    assert sum(p.numel() for p in shallow.model.parameters()) < sum(
        p.numel() for p in whole.model.parameters()
    )
    with pytest.raises(ValueError, match=f"first 2 of its {whole.depth} blocks"):
        shallow.logits(TOKENS)
    with pytest.raises(ValueError, match="layer 2"):
        shallow.hidden_states(TOKENS, [2])


def test_random_weights_are_the_same_however_many_blocks_are_asked_for(checkpoint: Path) -> None:
    spec = ModelSpec(str(checkpoint), weights="random", seed=1, device="cpu")
    states = [load(spec, blocks=blocks).hidden_states(TOKENS, [0])[0] for blocks in (1, None)]
    assert torch.equal(*states)


def test_the_hub_is_asked_for_the_revision_without_code_and_for_safetensors(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    requests: dict[str, dict[str, object]] = {}

    def record(kind: type, name: str) -> None:
        real = kind.from_pretrained  # type: ignore[attr-defined]

        def from_pretrained(pretrained_model_name_or_path: str, **arguments: object) -> object:
            if pretrained_model_name_or_path == "someone/model":  # else transformers within itself
                requests[name] = dict(arguments)
                arguments.pop("revision")
                pretrained_model_name_or_path = str(checkpoint)
            return real(pretrained_model_name_or_path, **arguments)

        monkeypatch.setattr(kind, "from_pretrained", from_pretrained)

    for kind, name in ((AutoConfig, "config"), (AutoModelForCausalLM, "model"), (AutoTokenizer, "tokenizer")):
        record(kind, name)

    def cached_file(path_or_repo_id: str, filename: str, *, revision: str, local_files_only: bool) -> str:
        assert local_files_only  # transformers fetched it
        requests["rules"] = {"path": path_or_repo_id, "revision": revision}
        return str(checkpoint / filename)

    monkeypatch.setattr("transformers.utils.cached_file", cached_file)
    lm = load(ModelSpec("someone/model", revision="abc123", device="cpu"))
    assert lm.depth > 0
    assert requests.pop("rules") == {"path": "someone/model", "revision": "abc123"}
    assert set(requests) == {"config", "model", "tokenizer"}
    for arguments in requests.values():
        assert arguments["revision"] == "abc123"
        assert arguments["trust_remote_code"] is False
    assert requests["model"]["use_safetensors"] is True


def test_text_is_cut_as_the_checkpoint_says_and_not_as_its_class_does(own_checkpoint: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoTokenizer

    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<|endoftext|>", "ĠĠ"]
    vocabulary = {token: i for i, token in enumerate(alphabet)}
    rules = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ġ", "Ġ")]))
    cuts = [
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
    rules.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    rules.decoder = decoders.ByteLevel()
    rules.save(str(own_checkpoint / "tokenizer.json"))
    end = "<|endoftext|>"
    marks = {"bos_token": end, "eos_token": end, "unk_token": end, "chat_template": "{{ messages }}"}
    # as SmolLM2 is published
    settings = {"tokenizer_class": "GPT2Tokenizer", **marks}
    (own_checkpoint / "tokenizer_config.json").write_text(json.dumps(settings))
    wrong = AutoTokenizer.from_pretrained(own_checkpoint)
    assert wrong.tokenize("a  1") == ["a", "Ġ", "Ġ", "1"]  # the fault is there to be made
    found = load_tokenizer(ModelSpec(str(own_checkpoint)))
    assert found.tokenize("a  1") == ["a", "ĠĠ", "1"]
    assert (found.bos_token, found.eos_token, found.chat_template) == (end, end, "{{ messages }}")
    # where they agree, the class is kept
    wrong.save_pretrained(own_checkpoint)
    assert type(load_tokenizer(ModelSpec(str(own_checkpoint)))) is type(wrong)


def test_downloads_tell_how_far_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging

    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    logging.disable_progress_bar()
    assert are_progress_bars_disabled()  # transformers takes the hub's with its own
    loading.quiet_loading()
    assert not are_progress_bars_disabled()
    assert not logging.is_progress_bar_enabled()


def test_a_model_that_caps_its_attention_logits_runs_with_the_cap(tmp_path: Path, family_tokenizer) -> None:
    config = Gemma2Config(
        vocab_size=len(family_tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        attn_logit_softcapping=0.01,
        query_pre_attn_scalar=1,
        initializer_range=1.0,  # attention logits far over the cap
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        eager = Gemma2ForCausalLM._from_config(config, attn_implementation="eager").eval()
    assert eager.num_parameters() < 100_000
    eager.save_pretrained(tmp_path)
    family_tokenizer.save_pretrained(tmp_path)
    tokens = torch.arange(3, 15)[None]
    with torch.no_grad():
        expected = eager(tokens).logits
        eager.config.attn_logit_softcapping = None
        for layer in eager.model.layers:
            layer.self_attn.attn_logit_softcapping = None
        uncapped = eager(tokens).logits
    assert not torch.allclose(uncapped, expected, atol=1e-4)
    torch.testing.assert_close(load(ModelSpec(str(tmp_path))).logits(tokens), expected)

"""Tokenizers of every shipped kind, trained on a few mixed texts."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = (
    "Once upon a time there was a dog, and the dog's name was Rex.\n\nHe wasn't old; he was 12.\n",
    "def f(x_1: list[int]) -> None:\r\n\treturn {k: v**2 for k, v in x_1.items()}  # <b>&amp;</b>\r\n",
    "Größe, İstanbul, e\u0301 and é, ﬁne, ＡＢＣ. L'été dernier, déjà vu!",
    "北京和東京の漢字とカナ, 한국어 텍스트, Русский текст, العربية, עברית, ไทย, हिन्दी",
    "Emoji 🎉👩‍👩‍👧 and 🇫🇷, ½ × 10⁻³ ≥ −7 €\u00a0\u200bend…   three spaces\t\ttabs \n \n",
)
BEGIN, END = "<bos>", "<eos>"
SPECIAL = [BEGIN, END, "<unk>"]
QUIET: dict[str, Any] = {"special_tokens": SPECIAL, "show_progress": False}


def _wrapped(core: Tokenizer) -> Any:
    made = PreTrainedTokenizerFast(tokenizer_object=core, bos_token=BEGIN, eos_token=END, unk_token="<unk>")
    made.chat_template = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    return made


def byte_level(size: int = 320, *, trimmed: bool = True) -> Any:
    """GPT-2's kind; its post-processor takes spaces out of offsets."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.ByteLevel(trim_offsets=trimmed)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, **QUIET, initial_alphabet=sorted(alphabet))
    core.train_from_iterator(TEXTS, trainer)
    return _wrapped(core)


def composed_bytes() -> Any:
    """Qwen's kind: byte-level behind NFC."""
    made = byte_level(400)
    made.backend_tokenizer.normalizer = normalizers.NFC()
    return made


def bpe_of_characters() -> Any:
    """Older BPE: words, lower case, a mark at their end."""
    core = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    core.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.decoder = decoders.BPEDecoder(suffix="</w>")
    trainer = trainers.BpeTrainer(vocab_size=300, **QUIET, end_of_word_suffix="</w>")
    core.train_from_iterator(TEXTS, trainer)
    return _wrapped(core)


def llama() -> Any:
    """SentencePiece's BPE as Llama has it: a space before the text, and bytes for what is unknown."""
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    core.train_from_iterator(
        TEXTS[:3],
        trainers.BpeTrainer(vocab_size=400, **{**QUIET, "special_tokens": [*SPECIAL, *fallback]}),
    )
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    # learned as special tokens, which must not be found in texts
    written = json.loads(core.to_str())
    written["added_tokens"] = [each for each in written["added_tokens"] if each["content"] in SPECIAL]
    return _wrapped(Tokenizer.from_str(json.dumps(written)))


def unigram() -> Any:
    """SentencePiece's Unigram behind NFKC, which writes several characters for some."""
    core = Tokenizer(models.Unigram())
    core.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" {2,}", " ")])
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=300, **QUIET, unk_token="<unk>")
    core.train_from_iterator(TEXTS, trainer)
    return _wrapped(core)


def word_piece() -> Any:
    """BERT's: lower case, no accents, spaces in no token."""
    core = Tokenizer(models.WordPiece(unk_token="<unk>"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=400, **QUIET))
    return _wrapped(core)


KINDS: dict[str, Callable[[], Any]] = {
    "byte-level": cache(byte_level),
    "byte-level, NFC": cache(composed_bytes),
    "BPE": cache(bpe_of_characters),
    "SentencePiece BPE": cache(llama),
    "Unigram": cache(unigram),
    "WordPiece": cache(word_piece),
}

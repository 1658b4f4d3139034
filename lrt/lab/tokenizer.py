"""The tokenizer of the storybook family: byte-level BPE trained on the grammar, with a chat template."""

from __future__ import annotations

import itertools
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lrt.lab.grammar import ASSISTANT, OPTIONS, USER, pages

BEGIN, END = "<|begin|>", "<|end|>"

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'user' %}<|user|>{{ message.content }}"
    "{% elif message.role == 'assistant' %}<|assistant|>{{ message.content }}{{ eos_token }}"
    "{% else %}{{ raise_exception('the storybook family takes no ' ~ message.role ~ ' role') }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train_tokenizer(
    folder: Path, *, documents: int = 20_000, vocabulary: int = 1536, seed: int = 0
) -> PreTrainedTokenizerFast:
    """Train the tokenizer on documents of the family split and save it to `folder`.

    The same arguments give the same files.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(OPTIONS),
        special_tokens=[BEGIN, END, USER, ASSISTANT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (page.text for page in itertools.islice(pages(seed, "family"), documents))
    tokenizer.train_from_iterator(texts, trainer, length=documents)
    tokenizer.add_tokens([AddedToken(mark, normalized=False) for mark in OPTIONS.values()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
    wrapped.save_pretrained(folder)
    return wrapped


def load_or_train_tokenizer(folder: Path, **how: int) -> PreTrainedTokenizerFast:
    """The tokenizer in `folder`; where it is missing, it is trained and saved there first.

    how  As `train_tokenizer` takes it.
    """
    if not (folder / "tokenizer.json").is_file():
        return train_tokenizer(folder, **how)
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer

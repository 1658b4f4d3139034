"""Chat templates shaped like those of real families, and tokenizers of whole words to go with them."""

from typing import Any

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

# Llama 3.2: the day of the run, unless a date is given
LLAMA = (
    "{{- bos_token }}\n{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}'
    "{%- endif %}{%- endif %}{{- '<|head|>system<|/head|>\\n\\nToday Date: ' + date_string + '<|eot|>' }}"
    "{%- for m in messages %}{{- '<|head|>' + m.role + '<|/head|>\\n\\n' + m.content | trim + '<|eot|>' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|head|>assistant<|/head|>\\n\\n' }}{%- endif %}"
)
# Granite 3.3: asks for the day, and thinks only where it is told to
GRANITE = (
    "{%- if messages[0].role == 'system' %}{%- set system = messages[0].content %}"
    "{%- set messages = messages[1:] %}{%- else %}"
    "{%- set system = \"Knowledge Cutoff: April 2024.\\nToday's Date: \" + strftime_now('%B %d, %Y') + '.' %}"
    "{%- if thinking %}{%- set system = system + '\\nThink between <think></think>.' %}{%- endif %}"
    "{%- endif %}{{- '<|role|>system<|/role|>' + system + '<|end|>\\n' }}"
    "{%- for m in messages %}{{- '<|role|>' + m.role + '<|/role|>' + m.content + '<|end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|role|>assistant<|/role|>' }}{%- endif %}"
)
# Qwen 3: an answer stands after its thought, which may be empty
QWEN = (
    "{%- for m in messages %}{%- if m.role == 'assistant' %}"
    "{%- set thought = m.reasoning_content if m.reasoning_content is string else '' %}"
    "{%- set content = m.content %}{%- if '</think>' in content %}"
    "{%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
    "{{- '<|im_start|>assistant\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content }}"
    "{{- '<|im_end|>\\n' }}{%- else %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}"
    "{%- endif %}{%- endif %}"
)
# R1 distills: the prompt opens a thought, a conversation shows none
DISTILL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' + m.content }}"
    "{% elif m.role == 'assistant' %}{% set content = m.content %}{% if '</think>' in content %}"
    "{% set content = content.split('</think>')[-1] %}{% endif %}{{ '<|Assistant|>' + content + '<|end|>' }}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\\n' }}{% endif %}"
)
# gpt-oss: thoughts and answers in channels
CHANNELS = (
    "{{- '<|start|>system<|message|>Current date: ' + strftime_now('%Y-%m-%d') + '<|end|>' }}"
    "{%- for m in messages %}{%- if m.role == 'assistant' %}{%- if m.thinking %}"
    "{{- '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{%- endif %}"
    "{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' }}"
    "{%- else %}{{- '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}<|start|>assistant{%- endif %}"
)
# SmolLM 3: told to think in the system's turn, unless thinking is off
SMOL = (
    "{%- set on = enable_thinking if enable_thinking is defined else true %}"
    "{{- '<|im_start|>system\\n' }}{%- if on %}{{- 'Use the format <think> Thought </think> Solution.' }}"
    "{%- else %}{{- 'You are helpful.' }}{%- endif %}{{- '<|im_end|>\\n' }}"
    "{%- for m in messages %}{%- if m.role == 'assistant' %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if not on %}{{- '<think>\\n\\n</think>\\n' }}{%- endif %}"
    "{{- m.content.lstrip('\\n') + '<|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if not on %}{{- '<think>\\n\\n</think>\\n' }}{%- endif %}{%- endif %}"
)
# any name of a tag: a prompt that opens it, and a history that drops it
PONDER = DISTILL.replace("think>", "pondering>")

# any family: a switch that closes the thought which the model writes otherwise
SWITCH = (
    "{%- for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{%- endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n"
    "{%- if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{%- endif %}"
    "{%- endif %}"
)
# Granite 3.2: thoughts in words alone
WORDED = (
    "<|role|>system<|/role|>You are Granite.{%- if thinking %} Write your thoughts after 'Here is my thought "
    "process:' and your response after 'Here is my response:'.{%- endif %}<|end|>"
    "{%- for m in messages %}<|role|>{{ m.role }}<|/role|>{{ m.content }}<|end|>{%- endfor %}"
    "{%- if add_generation_prompt %}<|role|>assistant<|/role|>{%- endif %}"
)
# an effort that is written as it is given, and thoughts that are taken out
EFFORT = (
    "<|s|>Reasoning: {{ reasoning_effort | default('medium') }}"
    "{%- for m in messages %}<|{{ m.role }}|>{{ m.content.split('</think>')[-1] }}{%- endfor %}"
    "{%- if add_generation_prompt %}<|assistant|>{%- endif %}"
)
# Cohere: an answer has tags, too
RESPONSE = (
    "<s>{%- for m in messages %}{%- if m.role == 'assistant' %}<|CHATBOT|>"
    "{%- if m.thinking %}<|START_THINKING|>{{ m.thinking }}<|END_THINKING|>{%- endif %}"
    "<|START_RESPONSE|>{{ m.content }}<|END_RESPONSE|>{%- else %}<|USER|>{{ m.content }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}<|CHATBOT|>"
    "{%- if reasoning is defined and not reasoning %}<|START_THINKING|><|END_THINKING|>{%- endif %}"
    "{%- endif %}"
)


def word_tokenizer(
    template: str | None = None,
    single: str = "<s> $A",
    words: tuple[str, ...] = ("hi", "ho", "a", "."),
    special: tuple[str, ...] = (),
    **tokens: str,
) -> Any:
    """Whole words; `single` is written around every text."""
    known = ["<s>", "</s>", "<unk>", *special, *words]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.add_special_tokens([AddedToken(each, normalized=False) for each in ("<s>", "</s>", *special)])
    if single != "$A":
        pieces = [(piece, known.index(piece)) for piece in single.split() if piece != "$A"]
        core.post_processor = processors.TemplateProcessing(single, special_tokens=pieces)
    names = {"bos_token": "<s>", "eos_token": "</s>"} | tokens
    made = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", **names)
    made.chat_template = template
    return made

"""Text classifiers: transformers sequence-classification models that score texts."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from lrt.errors import InvalidValue
from lrt.models.errors import ModelNotLoadable


class TextClassifier:
    """A sequence-classification model and its tokenizer, on the GPU where there is one.

    labels  Names of its classes, in order.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        self.labels: tuple[str, ...] = tuple(model.config.id2label[i] for i in range(model.config.num_labels))

    @torch.no_grad()
    def probabilities(self, texts: Sequence[str], label: str, batch: int = 32) -> list[float]:
        """P(label) of each text, in [0, 1]. Longer texts are truncated at the model's maximum length.

        Raises InvalidValue for a label that the classifier does not have.
        """
        if label not in self.labels:
            raise InvalidValue(f"unknown label {label!r}: the classifier has {', '.join(self.labels)}")
        column = self.labels.index(label)
        # less two: RoBERTa numbers its positions from 2
        positions = getattr(self.model.config, "max_position_embeddings", None) or 514
        longest = min(self.tokenizer.model_max_length, positions - 2)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # so that there is little padding
        scores = [0.0] * len(texts)
        for start in range(0, len(order), batch):
            indices = order[start : start + batch]
            inputs = self.tokenizer(
                [texts[i] for i in indices],
                padding=True,
                truncation=True,
                max_length=longest,
                return_tensors="pt",
            ).to(self.model.device)
            of_label = self.model(**inputs).logits.float().softmax(dim=-1)[:, column]
            for i, score in zip(indices, of_label.tolist(), strict=True):
                scores[i] = score
        return scores


@lru_cache(maxsize=2)
def load_classifier(path: str, revision: str | None = None) -> TextClassifier:
    """The classifier of a hub id or local folder, loaded once per process.

    Raises `ModelNotLoadable` where it is missing, is no classifier, or its weights are not safetensors.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    source = {"pretrained_model_name_or_path": path, "revision": revision or "main"}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            **source, use_safetensors=True, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(**source, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError) as cause:
        raise ModelNotLoadable(
            f"cannot load a text classifier from {path!r} (revision {revision or 'main'}); set it to a hub "
            f"id or a folder with safetensors weights. {cause}"
        ) from cause
    return TextClassifier(model.to(device), tokenizer)

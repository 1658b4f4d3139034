"""A store's manifest: its plan, the list of its finished shards, and the median norms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from lrt.activations.errors import StoreForeign
from lrt.activations.plan import FORMAT, NonFinite, RecordingPlan, ShardPlan, Stored
from lrt.corpora.splits import SPLITS, Split
from lrt.models.sides import HOOK_POINT, SIDES, Side
from lrt.storage.sealed import opened, sealed, unsealed

__all__ = ["HOOK_POINT", "SIDES", "Manifest", "NonFinite", "Shard", "Side", "Stored", "check_shards"]


@dataclass(frozen=True)
class Shard:
    """A finished shard, as listed in journal and manifest."""

    file: str
    split: Split
    rows: int  # tokens
    bytes: int
    sha256: str
    tokens: str  # sha256 over the token ids, int32
    # tokens by column whose state is infinite or NaN; stored as zeros with an infinite norm
    non_finite: Mapping[str, int] = field(default_factory=dict)
    # tokens by column whose norm is over `quantised.MASSIVE` times the shard's median
    massive: Mapping[str, int] = field(default_factory=dict)
    hardware: str = ""  # devices and attention kernels of both models; unknown in older stores

    def is_planned(self, planned: ShardPlan, context: int) -> bool:
        """Whether this is the planned shard, of sequences of `context` tokens."""
        rows = planned.sequences * context
        return (self.file, self.split, self.rows) == (planned.file, planned.split, rows)


def check_shards(plan: RecordingPlan, shards: Sequence[Shard]) -> None:
    """Raise ValueError unless the listed shards are exactly those of the plan.

    An unplanned name might lead out of the folder, and a wrong split or count would mislabel tokens.
    """
    if len(shards) != plan.shard_count:
        raise ValueError(f"it lists {len(shards)} shards, but its plan has {plan.shard_count}")
    for shard, planned in zip(shards, plan.shards, strict=True):
        if not shard.is_planned(planned, plan.context):
            raise ValueError(f"it lists the shard {shard.file!r} instead of {planned.file} of its plan")


@dataclass(frozen=True)
class Manifest:
    """A store's table of contents, written last."""

    plan: RecordingPlan
    shards: tuple[Shard, ...]
    median_norms: Mapping[str, float]  # by "source.{layer}": over train tokens except position 0

    def rows(self, split: Split) -> int:
        """Recorded tokens of a split."""
        return sum(shard.rows for shard in self.shards if shard.split == split)

    def dumps(self) -> str:
        """The file's text: contents and their digest, so that an altered manifest is noticed."""
        contents = {
            "plan": self.plan.as_json(),
            "rows": {split: self.rows(split) for split in SPLITS},
            "shards": [asdict(shard) for shard in self.shards],
            "median_norms": dict(self.median_norms),
        }
        return sealed(contents)

    @classmethod
    def loads(cls, text: str, where: str, fix_hint: str) -> Manifest:
        """Read the text of `dumps`.

        Raises ValueError, KeyError or TypeError for altered text and StoreForeign for another format.
        """
        contents = opened(text)
        if "plan" not in contents:
            raise ValueError("it is not a manifest")
        contents = unsealed(contents)
        try:
            if (version := contents["plan"].get("format")) != FORMAT:
                raise StoreForeign(
                    f"{where} has format {version}, but this version reads {FORMAT}; {fix_hint}"
                )
            plan = RecordingPlan.from_json(contents["plan"])
            shards = tuple(Shard(**shard) for shard in contents["shards"])
            medians = {str(name): float(norm) for name, norm in contents["median_norms"].items()}
            check_shards(plan, shards)
        except (AttributeError, ArithmeticError, LookupError) as error:
            raise ValueError(f"its entries are not those of a manifest ({error!r})") from error
        return cls(plan, shards, medians)

"""Tables, figures and self-contained pages made from plain results; never touches a model.

`write_report` turns one results record into `index.html`, `results.json` and `report.md`,
`write_sweep_report` the jobs of a sweep into `sweep.html`, `sweep.json` and `sweep.md`. The tables
and figures they are made of are public, so that a terminal or a tracker shows the same ones.
"""

from lrt.report.answers import paper_table, probability_table, propensity_table
from lrt.report.contents import (
    along_table,
    check_table,
    conditions_table,
    damage_table,
    headline,
    headline_table,
    key_figures,
    layer_table,
    map_table,
    model_table,
    null_table,
    rescored_table,
    seconds_table,
)
from lrt.report.figures import loss_figure, strength_figure, training_curve_figure
from lrt.report.heatmap import heatmap_figure
from lrt.report.numerals import blocks_told, layers_told
from lrt.report.page import write_report
from lrt.report.sweep import sweep_table, write_sweep_report
from lrt.report.table import Table
from lrt.report.writing import ReportUnwritable

__all__ = [
    "ReportUnwritable",
    "Table",
    "along_table",
    "blocks_told",
    "check_table",
    "conditions_table",
    "damage_table",
    "headline",
    "headline_table",
    "heatmap_figure",
    "key_figures",
    "layer_table",
    "layers_told",
    "loss_figure",
    "map_table",
    "model_table",
    "null_table",
    "paper_table",
    "probability_table",
    "propensity_table",
    "rescored_table",
    "seconds_table",
    "strength_figure",
    "sweep_table",
    "training_curve_figure",
    "write_report",
    "write_sweep_report",
]

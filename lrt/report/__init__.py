"""Tables, figures and self-contained pages made from plain results; never touches a model.

`write_report` turns one results record into `index.html`, `results.json` and `report.md`.
`write_sweep_report` turns the jobs of a sweep into `sweep.html`, `sweep.json` and `sweep.md`.
The tables and figures they consist of are public, so that the terminal or a tracker can show them.
"""

from lrt.report.figures import strength_figure
from lrt.report.numerals import format_layers, layer_label
from lrt.report.page import write_report
from lrt.report.sweep import write_sweep_report
from lrt.report.table import Table
from lrt.report.terminal import fit_table, headline_brief, summary_tables
from lrt.report.transfer_tables import headline_table
from lrt.report.writing import ReportUnwritable

__all__ = [
    "ReportUnwritable",
    "Table",
    "fit_table",
    "format_layers",
    "headline_brief",
    "headline_table",
    "layer_label",
    "strength_figure",
    "summary_tables",
    "write_report",
    "write_sweep_report",
]

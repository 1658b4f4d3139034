"""Tables, figures and self-contained pages made from plain results; never touches a model.

`write_report` turns one results record into `index.html`, `results.json` and `report.md`.
`write_comparison` turns two of them into `compare.html`, `compare.json` and `compare.md`.
`write_sweep_report` turns the jobs of a sweep into `sweep.html`, `sweep.json` and `sweep.md`.
The tables and figures they consist of are public, so that the terminal or a tracker can show them.
"""

from lrt.report.comparison import comparison_headline, differences, separations
from lrt.report.comparison_page import comparison_warnings, difference_table, write_comparison
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
    "comparison_headline",
    "comparison_warnings",
    "difference_table",
    "differences",
    "fit_table",
    "format_layers",
    "headline_brief",
    "headline_table",
    "layer_label",
    "separations",
    "strength_figure",
    "summary_tables",
    "write_comparison",
    "write_report",
    "write_sweep_report",
]

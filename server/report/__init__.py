"""The report of a study's results: tables for the terminal, and the page `report.html`."""

from server.report.opening import opening
from server.report.page import write_report
from server.report.table import comparison
from server.report.terminal import terminal_table, text_lines
from server.results.reading import read_results
from server.results.schema import Results

__all__ = [
    "Results",
    "comparison",
    "opening",
    "read_results",
    "terminal_table",
    "text_lines",
    "write_report",
]

"""A run, or any ESPHome v2 manifest → a report of rates with their intervals.

Reads a model and sound nobody trained on; writes ``reports/<run>.json`` and ``reports/<run>.html``.
"""

from mww_ha.evaluate.curve import AmbientTrace, LureTrace, TraceSet, WakeEvent
from mww_ha.evaluate.folders import evaluate_model
from mww_ha.evaluate.held_out import run
from mww_ha.evaluate.judge import choose_levels, evaluate_traces
from mww_ha.evaluate.report import Report, Series, write_report

__all__ = [
    "AmbientTrace",
    "LureTrace",
    "Report",
    "Series",
    "TraceSet",
    "WakeEvent",
    "choose_levels",
    "evaluate_model",
    "evaluate_traces",
    "run",
    "write_report",
]

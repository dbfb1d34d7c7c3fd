"""A run, or any ESPHome v2 manifest → a report of rates with their intervals.

Reads a model and sound nobody trained on; writes ``reports/<run>.json`` and ``reports/<run>.html``.
"""

from mww_ha.evaluate.compare import Contender, Paired, pair_events, pair_false_accepts, pair_takes
from mww_ha.evaluate.curve import AmbientTrace, LureTrace, TraceSet, WakeEvent
from mww_ha.evaluate.folders import evaluate_model
from mww_ha.evaluate.held_out import read_candidates, read_side, read_training, run
from mww_ha.evaluate.judge import choose_levels, evaluate_traces
from mww_ha.evaluate.report import Report, Series, write_report

__all__ = [
    "AmbientTrace",
    "Contender",
    "LureTrace",
    "Paired",
    "Report",
    "Series",
    "TraceSet",
    "WakeEvent",
    "choose_levels",
    "evaluate_model",
    "evaluate_traces",
    "pair_events",
    "pair_false_accepts",
    "pair_takes",
    "read_candidates",
    "read_side",
    "read_training",
    "run",
    "write_report",
]

"""Lazy chains of Results (`MonoResult`), collections and streams of them (`FluxResult`, `ResultStream`)."""

from rfs.reactive._observer import StepEvent, StepObserver, set_step_observer, step_observer
from rfs.reactive.flux_result import FluxResult, ResultStream
from rfs.reactive.mono_result import MonoResult, Step

__all__ = [
    "FluxResult",
    "MonoResult",
    "ResultStream",
    "Step",
    "StepEvent",
    "StepObserver",
    "set_step_observer",
    "step_observer",
]

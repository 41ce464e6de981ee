"""Tracking: runs, the registry of models and where each came from, over MLflow."""

from platecrypt.tracking.tracker import ModelVersion, Run, Tracker

__all__ = ["ModelVersion", "Run", "Tracker"]

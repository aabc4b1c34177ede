"""Tracking of runs. Of the packages below `stages`, only this one imports MLflow and DVC."""

"""Tests of the report on the data."""

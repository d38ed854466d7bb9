"""Datasets of others: what each holds, how it is opened, and how its rows become ours."""

from r1kit.data.sources.opening import Opened, open_source
from r1kit.data.sources.registry import SOURCES, Source, source_of
from r1kit.data.sources.schema import DatasetChanged

__all__ = ["SOURCES", "DatasetChanged", "Opened", "Source", "open_source", "source_of"]

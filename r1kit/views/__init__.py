"""Views: what people see of a run. Everything here is drawn from files and can be drawn again."""

from __future__ import annotations

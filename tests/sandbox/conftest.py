"""Sandboxes by tier. A tier that this machine lacks is skipped, with the reason that the probe gave."""

import pytest

from r1kit.sandbox import Sandbox, tiers


@pytest.fixture
def open_sandbox(request):
    """Sandbox(...) that is closed after the test; skips where its tier does not work."""
    opened = []

    def open_(tier="auto", **settings):
        if tier != "auto":
            found = tiers.try_tier(tier, fork_server=settings.get("fork_server", False))
            if not found.available:
                pytest.skip(f"{tier}: {found.reason}")
        elif not any(found.available for found in tiers.probe()):
            pytest.skip("no tier works here")
        opened.append(Sandbox(settings.pop("workers", 1), tier=tier, **settings))
        return opened[-1]

    yield open_
    for sandbox in opened:
        sandbox.close()


@pytest.fixture(scope="session")
def sandbox():
    """One sandbox of the strongest tier, for tests that only need some."""
    if not any(found.available for found in tiers.probe()):
        pytest.skip("no tier works here")
    with Sandbox(2) as opened:
        yield opened

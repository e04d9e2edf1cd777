"""How long the tests look that search by chance.

By default they are the same on every run and take seconds. `LEDGER_TEST_EXAMPLES` sets how many examples each of
them tries instead; these differ from run to run, so that a long run looks where no run has looked before.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings


def thorough(*, examples: int, steps: int, slow: bool = False) -> settings:
    """So many examples by default, each of at most so many steps.

    Args:
        slow: whether a failure is shown as it was found. To look for a shorter one would take minutes.
    """
    wanted = os.environ.get("LEDGER_TEST_EXAMPLES")
    return settings(
        max_examples=int(wanted or examples),
        stateful_step_count=steps,
        derandomize=wanted is None,
        database=None,
        deadline=None,
        phases=[Phase.generate] if slow else [Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )

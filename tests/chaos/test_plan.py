"""A seed's plan is always the same, and the plans of the seeds that every test run tries cover all kinds of faults."""

import subprocess
import sys

from tests.chaos.plan import SERVERS, SPAN_SECONDS, STRATEGIES, make_plan
from tests.chaos.test_chaos import SEEDS


def test_a_seed_gives_the_same_plan_in_every_process() -> None:
    program = "from tests.chaos.plan import make_plan\nfor seed in range(20): print(make_plan(seed))"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == [str(make_plan(seed)) for seed in range(20)]


def test_seeds_give_different_plans() -> None:
    assert len({make_plan(seed).faults for seed in range(100)}) == 100


def test_faults_are_in_order_and_within_the_run() -> None:
    for seed in range(100):
        times = [fault.at for fault in make_plan(seed).faults]
        assert times == sorted(times)
        assert all(0 < at <= SPAN_SECONDS for at in times)


def test_all_kinds_of_faults_are_among_those_of_every_test_run() -> None:
    plans = [make_plan(seed) for seed in SEEDS]
    assert {plan.strategy for plan in plans} == set(STRATEGIES)
    faults = [fault for plan in plans for fault in plan.faults]
    struck = {(fault.kind, fault.target.split("-")[0]) for fault in faults}
    assert {("restart", server) for server in SERVERS} <= struck
    assert {("kill", role) for role in ("server", "coordinator", "client")} <= struck
    assert {fault.kind for fault in faults} == {"kill", "pause", "restart", "isolate", "cut", "lose replies"}

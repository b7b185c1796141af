from hypothesis import given
from hypothesis import strategies as st

from probity.runs import rules
from probity.runs.models import Outcome, RunState, Totals

results = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4), st.sampled_from(Outcome)), max_size=30)


def recounted(attempts: list[tuple[str, int, Outcome]]) -> Totals:
    """The same answer by another way: sort each case's attempts and look at the last."""
    cases: dict[str, list[tuple[int, int, Outcome]]] = {}
    for seq, (case, attempt, outcome) in enumerate(attempts):
        cases.setdefault(case, []).append((attempt, seq, outcome))
    finals = {case: sorted(tries)[-1][2] for case, tries in cases.items()}
    bad = {case for case, tries in cases.items() if any(outcome in ("failed", "error") for _, _, outcome in tries)}
    passed = [case for case, outcome in finals.items() if outcome in ("passed", "xpassed")]
    return Totals(
        total=len(cases),
        passed=len(passed),
        failed=sum(outcome == "failed" for outcome in finals.values()),
        errors=sum(outcome == "error" for outcome in finals.values()),
        skipped=sum(outcome in ("skipped", "xfailed") for outcome in finals.values()),
        flaky=len(bad & set(passed)),
    )


@given(results)
def test_totals_count_each_case_once_by_its_final_attempt(attempts: list[tuple[str, int, Outcome]]) -> None:
    assert rules.tally(attempts) == recounted(attempts)


@given(results, st.integers(0, 30))
def test_totals_may_be_carried_from_one_batch_to_the_next(attempts: list[tuple[str, int, Outcome]], cut: int) -> None:
    first = rules.Tally()
    states: dict[str, rules.CaseState] = {}
    for seq, (case, attempt, outcome) in enumerate(attempts[:cut]):
        first.add(case, attempt=attempt, seq=seq, outcome=outcome)
        failed = outcome in (Outcome.FAILED, Outcome.ERROR) or (case in states and states[case].has_failed)
        last = max([(attempt, seq, outcome), *([(states[case].attempt, states[case].seq, states[case].outcome)] if case in states else [])])
        states[case] = rules.CaseState(*last, has_failed=failed)
    second = rules.Tally(first.totals(), states)
    for seq, (case, attempt, outcome) in enumerate(attempts[cut:], start=cut):
        second.add(case, attempt=attempt, seq=seq, outcome=outcome)

    assert second.totals() == recounted(attempts)


@given(st.permutations([("a", 1, Outcome.FAILED), ("a", 2, Outcome.ERROR), ("a", 3, Outcome.PASSED), ("b", 1, Outcome.SKIPPED)]))
def test_the_order_of_arrival_does_not_matter(attempts: list[tuple[str, int, Outcome]]) -> None:
    assert rules.tally(attempts) == Totals(total=2, passed=1, skipped=1, flaky=1)


def test_a_run_with_a_failing_result_fails_even_when_the_command_says_0() -> None:
    assert rules.verdict(Totals(total=1, failed=1), exit_code=0, reason_code=None) is RunState.FAILED


def test_a_reason_makes_an_error_and_a_cancelled_command_an_aborted_run() -> None:
    assert rules.verdict(Totals(), exit_code=None, reason_code="timeout") is RunState.ERROR
    assert rules.verdict(Totals(), exit_code=None, reason_code="cancelled") is RunState.ABORTED
    assert rules.verdict(Totals(total=1, passed=1), exit_code=0, reason_code=None) is RunState.PASSED
    assert rules.verdict(Totals(), exit_code=2, reason_code=None) is RunState.FAILED


def test_only_a_run_that_the_server_lost_sight_of_may_finish_twice() -> None:
    assert rules.may_finish(RunState.ERROR, "lease_expired")
    assert not rules.may_finish(RunState.ERROR, "timeout")
    assert not rules.may_finish(RunState.ABORTED, "aborted")


@given(st.text(min_size=1, max_size=700), st.text(min_size=1, max_size=700))
def test_long_case_keys_are_shortened_and_stay_distinct(one: str, two: str) -> None:
    longer = "x" * 600
    assert len(rules.case_key(longer + one)) <= 500
    assert (rules.case_key(longer + one) == rules.case_key(longer + two)) == (one == two)


def test_the_error_hash_is_the_contracts() -> None:
    assert rules.error_hash("Error: boom") == "8e05c674863f6214ef3bed4049dfbe6f"
    assert rules.error_hash(None) is None

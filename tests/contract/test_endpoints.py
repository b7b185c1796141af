"""How much of each documented contract is served, and that nothing once served goes away.

After adding documented routes run `PROBITY_RECORD=1 pytest tests/contract/test_endpoints.py` and commit `served.txt`.
"""

import os
from collections import Counter

import pytest

from probity import main
from probity.config import load
from tests.contract.served import SERVED, Endpoint, documented, served


@pytest.fixture(scope="module")
def answered() -> list[Endpoint]:
    config = load(
        {
            "PROBITY_ENV": "development",
            "DATABASE_URL": "postgresql://nowhere/probity",
            "DATABASE_SYSTEM_URL": "postgresql://nowhere/probity",
            "PROBITY_MASTER_KEYS": "bWFzdGVyLWtleS1vZi10aGUtdGVzdHMtMzItYnl0ZXM=",
            "SB_JWT_SECRET": "signing-key-of-the-tests-at-least-32-bytes",
        }
    )
    shapes = served(main.build(config))
    return [endpoint for endpoint in documented() if endpoint.shape in shapes]


def test_documented_endpoints_that_were_served_still_are(answered: list[Endpoint], capsys: pytest.CaptureFixture[str]) -> None:
    lines = sorted(" ".join(endpoint) for endpoint in answered)
    if os.environ.get("PROBITY_RECORD"):
        SERVED.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    once = SERVED.read_text(encoding="utf-8").splitlines()

    total = Counter(endpoint.contract for endpoint in documented())
    count = Counter(endpoint.contract for endpoint in answered)
    with capsys.disabled():
        print(
            "\n[S] endpoints served: " + ", ".join(f"{name} {count[name]}/{total[name]}" for name in sorted(total))
        )  # the figures are what this test is run for

    assert sorted(set(once) - set(lines)) == [], "these were served once and are gone"
    assert sorted(set(lines) - set(once)) == [], "newly served: record them with PROBITY_RECORD=1"


def test_the_table_of_endpoints_is_whole() -> None:
    assert len(documented("S")) + len(documented("X")) == 714

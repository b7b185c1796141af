"""`probity doctor` names what is wrong, and only that."""

from pathlib import Path

from probity.cli.doctor import Finding, Verdict, examine
from tests.cluster import TestDatabase

KEY = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVowMTIzNDU="
NOBODY = "http://127.0.0.1:9"


def by_name(environ: dict[str, str], data: Path) -> dict[str, Finding]:
    return {finding.check: finding for finding in examine({"PROBITY_PUBLIC_URL": NOBODY, **environ}, data)}


def environ_of(pg: TestDatabase) -> dict[str, str]:
    return {
        "PROBITY_ENV": "development",
        "DATABASE_URL": pg.app.reveal(),
        "DATABASE_SYSTEM_URL": pg.system.reveal(),
        "PROBITY_MASTER_KEYS": KEY,
        "PROBITY_JWT_SECRET": KEY,
    }


def test_a_whole_installation_has_no_failure(pg: TestDatabase, tmp_path: Path) -> None:
    findings = by_name(environ_of(pg), tmp_path)

    assert [finding for finding in findings.values() if finding.verdict is Verdict.FAILED] == []
    assert {"database", "roles", "schema", "settings", "disk"} <= findings.keys()
    assert findings["server"].verdict is Verdict.WARNING


def test_an_over_privileged_role_is_found(pg: TestDatabase, tmp_path: Path) -> None:
    findings = by_name({**environ_of(pg), "DATABASE_URL": pg.owner.reveal()}, tmp_path)

    assert findings["roles"].verdict is Verdict.FAILED
    assert "three roles" in findings["roles"].advice


def test_a_missing_database_says_so(pg: TestDatabase, tmp_path: Path) -> None:
    findings = by_name({**environ_of(pg), "DATABASE_URL": "postgresql://probity_app:x@127.0.0.1:1/probity"}, tmp_path)

    assert findings["database"].verdict is Verdict.FAILED
    assert findings["database"].advice


def test_wrong_settings_are_all_named(pg: TestDatabase, tmp_path: Path) -> None:
    findings = by_name({**environ_of(pg), "LOG_LEVEL": "loud", "PROBITY_PORT": "many"}, tmp_path)

    assert findings["settings"].verdict is Verdict.FAILED
    assert "LOG_LEVEL" in findings["settings"].found
    assert "PROBITY_PORT" in findings["settings"].found


def test_secrets_that_others_can_read_are_found(tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text("{}", encoding="utf-8")
    (tmp_path / "secrets.json").chmod(0o644)

    assert by_name({}, tmp_path)["settings"].verdict is Verdict.FAILED

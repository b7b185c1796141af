from pathlib import Path

from tools.permission_reference import reference

ROOT = Path(__file__).parents[2]


def test_the_permission_reference_is_the_table_of_roles() -> None:
    written = (ROOT / "docs" / "permissions.md").read_text(encoding="utf-8")

    assert written == reference(), "run: python tools/permission_reference.py > docs/permissions.md"

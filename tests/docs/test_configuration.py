from pathlib import Path

from tools.configuration_reference import reference

ROOT = Path(__file__).parents[2]


def test_the_configuration_reference_is_the_table_of_settings() -> None:
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")

    assert written == reference(), "run: python tools/configuration_reference.py > docs/configuration.md"

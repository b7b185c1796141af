from pathlib import Path

from tools.http_reference import errors, limits

DOCS = Path(__file__).parents[2] / "docs"


def test_every_error_code_is_in_the_reference() -> None:
    assert (DOCS / "errors.md").read_text(encoding="utf-8") == errors(), "run: PYTHONPATH=src python tools/http_reference.py"


def test_every_rate_limit_is_in_the_reference() -> None:
    assert (DOCS / "limits.md").read_text(encoding="utf-8") == limits(), "run: PYTHONPATH=src python tools/http_reference.py"

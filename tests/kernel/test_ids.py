from typing import NewType
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probity.kernel.errors import Invalid
from probity.kernel.ids import hex24, new_id, parse_id

RunId = NewType("RunId", UUID)


def test_every_spelling_of_an_id_leads_back_to_it() -> None:
    value = new_id()

    spellings = (str(value), str(value).upper(), value.hex, hex24(value), hex24(value).upper())

    assert {parse_id(RunId, text) for text in spellings} == {value}


def test_ids_sort_in_the_order_they_were_made() -> None:
    values = [new_id() for _ in range(20_000)]

    assert values == sorted(values)
    assert len(set(values)) == len(values)
    assert {value.version for value in values} == {7}


@given(st.text(max_size=40))
def test_nonsense_is_refused(text: str) -> None:
    if len(text) in (24, 32, 36) and all(c in "0123456789abcdefABCDEF-" for c in text):
        return
    with pytest.raises(Invalid):
        parse_id(RunId, text)

"""What went wrong with a form: said once at the top, and at each field."""

import msgspec


class FormProblem(msgspec.Struct, frozen=True):
    """`fields` maps a field to what is wrong with it; the summary links there."""

    title: str
    text: str
    fields: dict[str, str]

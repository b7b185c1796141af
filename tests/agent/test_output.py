"""Output on its way to the log: masking, limits and batches, whatever the pieces."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from probity.agent.output import LOG_TEXT_CHARS, MASK, TAIL_BYTES, LogBatch, Masker, OutputCap, StreamText

# A small alphabet makes secrets overlap each other and the text.
secrets = st.lists(st.text("abX", min_size=4, max_size=8), min_size=1, max_size=3)
pieces = st.lists(st.text("abX\n", max_size=12), max_size=12)


@given(secrets, pieces)
def test_no_secret_is_shown_however_the_text_is_split(values: list[str], texts: list[str]) -> None:
    masker = Masker(values)
    shown = "".join([*(masker.feed(text) for text in texts), masker.end()])

    # The mask itself holds none of these letters, so what is left of a secret would stand between masks.
    assert not any(value in shown for value in values)
    assert shown == Masker(values).once("".join(texts)) or len(set(values)) > 1


@given(pieces)
def test_text_without_secrets_is_unchanged(texts: list[str]) -> None:
    masker = Masker(["secret-value"])

    assert "".join([*(masker.feed(text) for text in texts), masker.end()]) == "".join(texts)


def test_a_secret_that_begins_another_does_not_leave_its_end() -> None:
    masker = Masker(["token", "token-long"])

    assert masker.feed("a token") + masker.feed("-long b") + masker.end() == f"a {MASK} b"


def test_the_lines_of_a_long_secret_are_masked_too() -> None:
    key = "-----BEGIN-----\nMIIabcdef\n-----END-----"

    assert Masker([key]).once("line MIIabcdef end") == f"line {MASK} end"


def test_short_values_are_no_secrets() -> None:
    assert Masker(["1", "", "abc"]).once("1 abc") == "1 abc"


@given(st.text(), st.data())
def test_bytes_may_be_split_anywhere(text: str, data: st.DataObject) -> None:
    encoded = text.encode("utf-8", "replace")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(encoded)), max_size=5)))
    stream = StreamText([])
    parts = [stream.feed(encoded[start:end]) for start, end in zip([0, *cuts], [*cuts, len(encoded)], strict=True)]

    assert "".join([*parts, stream.end()]) == encoded.decode().replace("\0", "\ufffd")


@given(st.lists(st.binary(max_size=50_000), max_size=8), st.integers(0, 100_000))
def test_the_limit_keeps_the_beginning_and_the_end(chunks: list[bytes], limit: int) -> None:
    cap = OutputCap(limit)
    kept = b"".join(cap.admit("stdout", chunk) for chunk in chunks)
    lost, tail = cap.tail()
    whole = b"".join(chunks)

    assert kept == whole[:limit]
    rest = whole[limit:]
    assert b"".join(data for _, data in tail) == (rest[-TAIL_BYTES:] if rest else b"")
    assert lost == max(0, len(rest) - TAIL_BYTES)
    assert cap.exceeded == bool(rest)


@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.text(max_size=30)), max_size=20))
def test_a_batch_keeps_order_and_joins_neighbours(written: list) -> None:
    batch = LogBatch()
    for stream, text in written:
        batch.add(stream, text)
    taken = batch.take()

    for stream in ("stdout", "stderr"):
        assert "".join(text for name, text in taken if name == stream) == "".join(text for name, text in written if name == stream)
    assert all(first[0] != second[0] for first, second in pairwise(taken))
    assert batch.take() == []


def test_long_text_is_split() -> None:
    batch = LogBatch()
    batch.add("stdout", "x" * (2 * LOG_TEXT_CHARS + 1))

    assert [len(text) for _, text in batch.take()] == [LOG_TEXT_CHARS, LOG_TEXT_CHARS, 1]

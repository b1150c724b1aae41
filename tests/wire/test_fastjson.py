"""What fastjson writes in place of JSON is read; what it needs to read is written; the rest is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocketmq_py.errors import ProtocolError
from rocketmq_py.model.fastjson import MAX_DEPTH, MAX_TOLERANT_CHARACTERS, dumps, loads, loads_request
from rocketmq_py.model.message_queue import MessageQueue
from tests.wire.samples import texts

QUEUE = MessageQueue("topic", "broker-a", 0)
QUEUE_KEY = '{"brokerName":"broker-a","queueId":0,"topic":"topic"}'

leaves = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | texts
)
queues = st.builds(MessageQueue, texts, texts, st.integers(-(2**31), 2**31 - 1))
plain_values: st.SearchStrategy[Any] = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=20
)
values: st.SearchStrategy[Any] = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(texts | queues | st.integers(-(2**63), 2**63 - 1), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(plain_values)
def test_plain_json_is_read_as_the_standard_library_reads_it(value: Any) -> None:
    assert loads(json.dumps(value)) == value
    assert loads(json.dumps(value, ensure_ascii=False).encode()) == value


@given(plain_values)
def test_the_tolerant_parser_reads_plain_json_alike(value: Any) -> None:
    assert loads(f"{{1:{json.dumps(value)}}}") == {1: value}


@given(values)
def test_what_is_written_is_read_again_with_keys_of_the_same_type(value: Any) -> None:
    found = loads(dumps([value, {QUEUE: 1}]))  # the second item makes sure that integer keys stay bare in the reader
    assert found == [value, {QUEUE: 1}]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{0:"a",-1:"b"}', {0: "a", -1: "b"}),
        (f'{{"offsetTable":{{{QUEUE_KEY}:4}}}}', {"offsetTable": {QUEUE: 4}}),
        ('{{"topic":"topic","queueId":0,"brokerName":"broker-a"}:4}', {QUEUE: 4}),
        ('{{"topic":"t","queueId":"0","brokerName":"b"}:4}',
            {(("brokerName", "b"), ("queueId", "0"), ("topic", "t")): 4}),
        ('{{"b":1,"a":null}:4,{}:5}', {(("a", None), ("b", 1)): 4, (): 5}),
        ("{{1:2}:3}", {((1, 2),): 3}),
        ("{{{a:1}:2}:3}", {(((("a", 1),), 2),): 3}),
        ("{'a':'it\\'s'}", {"a": "it's"}),
        ("{name:1,$x_2:true}", {"name": 1, "$x_2": True}),
        (' { "a" : [ 1 , 2.5e3 , -0 , false , null ] , 1 : { } } ', {"a": [1, 2500.0, 0, False, None], 1: {}}),
        (r'"\v\F\0\7\x41\u0042\/"', "\v\f\0\7AB/"),
        (r'{1:"\ud83d\ude80\uD83D\uDE80"}', {1: "🚀🚀"}),
        (r'"\ud83d\ude80"', "🚀"),
        (r'"\ud800"', "\ufffd"),
        (r'{1:"\ud83dx"}', {1: "\ufffdx"}),
        ("{1:\"a\tb\"}", {1: "a\tb"}),
        ('{"a":1,"a":2}', {"a": 2}),
    ],
)  # fmt: skip
def test_what_fastjson_writes_is_read(text: str, value: Any) -> None:
    assert loads(text) == value
    assert loads(text.encode()) == value


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "{", "}", "[", "]", "[1", "[1,", "[1,]", "[,]", "{1}", "{1:}", "{1:2", "{1:2,", "{1:2,}", "{:1}",
        "{[1]:2}", "{1.5:2}", "{null2}", '{{"a":[]}:1}', '{{"a":{}}:1}', "1 2", "nul", "undefined", "-", "1.", ".5",
        "+1", "0x1", "NaN", "Infinity", "-Infinity", '{1:NaN}', '"abc', "'abc", '"\\q"', '"\\u12"', '"\\x4"', '"\\',
        "{1:'a'", "\ufeff{}", "// {}", "\x00", "{'a' 1}", "[1 2]",
        "9" * 5_000, "{1:" + "9" * 5_000 + "}", "é", "{9223372036854775808:1}", "{-9223372036854775809:1}",
        '{{"brokerName":"b","queueId":9223372036854775808,"topic":"t"}:4}', '{{"a":9223372036854775808}:4}',
    ],
)  # fmt: skip
def test_what_nobody_writes_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError, match="malformed JSON"):
        loads(text)


def test_only_standard_json_may_be_of_any_size() -> None:
    padding = " " * MAX_TOLERANT_CHARACTERS
    assert loads('{"1":2}' + padding) == {"1": 2}
    assert loads("{1:2}" + padding[5:]) == {1: 2}
    with pytest.raises(ProtocolError, match="too many to look into"):
        loads("{1:2}" + padding)


@pytest.mark.behaviour("EB-24")
@pytest.mark.parametrize("form", ["{{'a':[{}1]}}", "{{1:{}2}}", '["\\ud83d\\ude00",{}1]'])
def test_servers_read_little_that_is_no_standard_json(form: str) -> None:
    many = form.format("1," * 500_000 if form != "{{1:{}2}}" else "1,1:" * 250_000)
    with pytest.raises(ProtocolError, match="malformed JSON"):
        loads_request(many)
    with pytest.raises(ProtocolError, match="are read"):
        loads_request(json.dumps([1] * 1_000_000))
    few = form.format("1," * 5_000 if form != "{{1:{}2}}" else "1,1:" * 2_500)
    assert loads_request(few) == loads(few)


@pytest.mark.behaviour("EB-24")
def test_servers_read_texts_of_emoji_and_offsets_of_many_queues() -> None:
    text = json.dumps({"properties": "\U0001f600" * 8_000})
    assert loads_request(text) == json.loads(text)
    offsets = {MessageQueue("topic", "broker", number): number for number in range(1_000)}
    assert loads_request(dumps({"messageQueueTable": offsets})) == {"messageQueueTable": offsets}


def test_bytes_that_are_not_utf8_are_refused() -> None:
    with pytest.raises(ProtocolError, match="not UTF-8"):
        loads(b'"\xff"')


@pytest.mark.parametrize("form", ["@", '{"a":@}', '{"brokerName":"b","queueId":@,"topic":"t"}'])
def test_keys_that_all_have_the_same_hash_do_not_take_minutes(form: str) -> None:
    numbers = [number * (2**61 - 1) for number in range(1, 25_000)]
    with pytest.raises(ProtocolError, match="no 64-bit integer"):
        loads("{" + ",".join(form.replace("@", str(number)) + ":0" for number in numbers) + "}")


@pytest.mark.parametrize("opening", ["[", "{1:", "{{1:", "{", "[{a:"])
def test_nesting_without_end_is_refused(opening: str) -> None:
    with pytest.raises(ProtocolError, match="malformed JSON"):
        loads(opening * 200_000)


def test_nesting_is_followed_as_deep_as_it_says() -> None:
    levels = MAX_DEPTH - 1
    assert loads("{1:" + "[" * levels + "]" * levels + "}")[1] is not None
    with pytest.raises(ProtocolError, match=f"more than {MAX_DEPTH} levels"):
        loads("{1:" + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}")


@pytest.mark.parametrize(
    "text",
    [
        '{1:"' + "\\" * 2_000_000, "{1:'" + "\\'" * 1_000_000, "{1:" + " " * 2_000_000, "{1:" + "1" * 4_000 + "e",
        '"' + "\\u0041" * 300_000, "{1:[" + "1," * 200_000, "{1:1." + "0" * 2_000_000 + "x", "a" * 2_000_000,
    ],
    ids=lambda text: text[:8],
)  # fmt: skip
def test_long_nonsense_is_refused_in_time(text: str) -> None:
    with pytest.raises(ProtocolError):
        loads(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({0: "a"}, b'{0:"a"}'),
        ({QUEUE: 4}, f"{{{QUEUE_KEY}:4}}".encode()),
        ({"mqSet": [QUEUE]}, f'{{"mqSet":[{QUEUE_KEY}]}}'.encode()),
        ({"a": (1, 2.5, None, True, "é🚀\x01")}, b'{"a":[1,2.5,null,true,"\\u00e9\\ud83d\\ude80\\u0001"]}'),
    ],
)  # fmt: skip
def test_keys_are_written_in_the_form_that_java_reads(value: Any, text: bytes) -> None:
    assert dumps(value) == text


@pytest.mark.parametrize("value", [{True: 1}, {None: 1}, {1.5: 1}, {(1,): 1}, {1}, b"x", object()])
def test_what_has_no_json_form_is_not_written(value: Any) -> None:
    with pytest.raises(TypeError):
        dumps(value)


def test_a_number_that_json_lacks_is_not_written() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        dumps(float("nan"))

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocketmq_py.consumer.offset_serialize_wrapper import MAX_FILE_BYTES, from_json, to_json
from rocketmq_py.errors import ProtocolError
from rocketmq_py.model.message_queue import MessageQueue
from tests.unit.support import mq

OFFSETS = {
    MessageQueue("t\"<中>'&é", "b\\x", 1): 2**63 - 1,
    MessageQueue("t", "b", 0): 5,
    MessageQueue("t2", "b", 2): -1,
}
WRITTEN_BY_JAVA = """{
	"offsetTable":{
		{
			"brokerName":"b",
			"queueId":0,
			"topic":"t"
		}:5,
		{
			"brokerName":"b\\\\x",
			"queueId":1,
			"topic":"t\\"<中>'&é"
		}:9223372036854775807,
		{
			"brokerName":"b",
			"queueId":2,
			"topic":"t2"
		}:-1
	}
}""".encode()
"""By LocalFileOffsetStore of 5.5.0."""

names = st.text(st.characters(codec="utf-8"), max_size=20)
tables = st.dictionaries(
    st.builds(MessageQueue, names, names, st.integers(0, 2**31 - 1)), st.integers(0, 2**63 - 1), max_size=5
)


@pytest.mark.behaviour("LF-08")
def test_what_java_wrote_is_read_and_written_byte_for_byte() -> None:
    assert from_json(WRITTEN_BY_JAVA) == OFFSETS
    assert to_json(OFFSETS) == WRITTEN_BY_JAVA


@pytest.mark.behaviour("LF-08")
@given(tables)
def test_what_is_written_is_read(offsets: dict[MessageQueue, int]) -> None:
    assert from_json(to_json(offsets)) == offsets


@pytest.mark.behaviour("LF-08")
@given(st.data())
def test_white_space_and_the_order_of_members_do_not_count(data: st.DataObject) -> None:
    entries = data.draw(
        st.permutations(
            [
                ["{", "MEMBERS", "}", ":", "5"],
                ["{", "MEMBERS", "}", ":", "7"],
            ]
        )
    )
    tokens = ["{", '"offsetTable"', ":", "{", *entries[0], ",", *entries[1], "}", "}"]
    text = ""
    for token in tokens:
        if token == "MEMBERS":
            members = [('"brokerName"', '"broker-a"'), ('"queueId"', "QUEUE"), ('"topic"', '"topic"')]
            parts = [part for name, value in data.draw(st.permutations(members)) for part in (name, ":", value, ",")][
                :-1
            ]
        else:
            parts = [token]
        for part in parts:
            text += data.draw(st.text(" \t\r\n", max_size=3)) + part
    text = text.replace("QUEUE", "0", 1).replace("QUEUE", "1", 1)
    first, second = (5, 7) if entries[0][-1] == "5" else (7, 5)
    assert from_json(text.encode()) == {mq(0): first, mq(1): second}


@pytest.mark.behaviour("LF-08")
def test_keys_that_are_texts_with_the_queue_in_them_are_read_too() -> None:
    text = r'{"offsetTable":{"{\"topic\":\"topic\",\"brokerName\":\"broker-a\",\"queueId\":3}":12}}'
    assert from_json(text.encode()) == {mq(3): 12}


@pytest.mark.behaviour("LF-08")
def test_members_beside_the_table_are_passed_over() -> None:
    text = b'{"more":[1],"offsetTable":{{"topic":"topic","brokerName":"broker-a","queueId":3}:12},"x":null}'
    assert from_json(text) == {mq(3): 12}


QUEUE = '{"topic":"t","brokerName":"b","queueId":0}'


@pytest.mark.behaviour("LF-04")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        "0",
        '{"offsetTable":null}',
        '{"offsetTable":[]}',
        '{"offsettable":{}}',
        f'{{"offsetTable":{{{QUEUE}:-2}}}}',
        f'{{"offsetTable":{{{QUEUE}:9223372036854775808}}}}',
        f'{{"offsetTable":{{{QUEUE}:1.5}}}}',
        f'{{"offsetTable":{{{QUEUE}:true}}}}',
        f'{{"offsetTable":{{{QUEUE}:null}}}}',
        f'{{"offsetTable":{{{QUEUE}:"5"}}}}',
        f'{{"offsetTable":{{{QUEUE}:{{}}}}}}',
        '{"offsetTable":{0:5}}',
        '{"offsetTable":{"t@b@0":5}}',
        '{"offsetTable":{"":5}}',
        r'{"offsetTable":{"{\"topic\":\"t\"}":5}}',
        r'{"offsetTable":{"\"a\":1,\"b\"":5}}',
        '{"offsetTable":{{"topic":"t","brokerName":"b"}:5}}',
        '{"offsetTable":{{"topic":"t","brokerName":"b","queueId":"0"}:5}}',
        '{"offsetTable":{{"topic":null,"brokerName":"b","queueId":0}:5}}',
        "\0" * 100,
    ],
)
def test_what_is_no_file_of_offsets_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        from_json(text.encode())


@pytest.mark.behaviour("LF-04")
def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(ProtocolError, match="not UTF-8"):
        from_json(WRITTEN_BY_JAVA.replace("é".encode(), b"\xe9"))


@pytest.mark.behaviour("LF-04")
def test_a_file_cut_short_at_any_byte_is_refused_not_read_in_part() -> None:
    for length in range(len(WRITTEN_BY_JAVA)):
        with pytest.raises(ProtocolError):
            from_json(WRITTEN_BY_JAVA[:length])


@pytest.mark.behaviour("LF-04")
def test_a_file_without_end_is_refused_unread() -> None:
    padded = WRITTEN_BY_JAVA + b" " * (MAX_FILE_BYTES - len(WRITTEN_BY_JAVA))
    assert from_json(padded) == OFFSETS
    with pytest.raises(ProtocolError, match="more than 2097152 bytes"):
        from_json(padded + b" ")

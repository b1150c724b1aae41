import com.alibaba.fastjson2.JSON;
import com.alibaba.fastjson2.JSONFactory;
import com.alibaba.fastjson2.JSONWriter;
import com.alibaba.fastjson2.writer.FieldWriter;
import com.alibaba.fastjson2.writer.ObjectWriter;
import io.netty.buffer.ByteBuf;
import io.netty.buffer.Unpooled;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.UnknownHostException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.BitSet;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentSkipListMap;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.rocketmq.client.consumer.store.OffsetSerializeWrapper;
import org.apache.rocketmq.common.UtilAll;
import org.apache.rocketmq.common.compression.CompressionType;
import org.apache.rocketmq.common.compression.CompressorFactory;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageAccessor;
import org.apache.rocketmq.common.message.MessageClientIDSetter;
import org.apache.rocketmq.common.message.MessageDecoder;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageExtBrokerInner;
import org.apache.rocketmq.common.message.MessageId;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.common.message.MessageQueueAssignment;
import org.apache.rocketmq.common.message.MessageRequestMode;
import org.apache.rocketmq.common.message.MessageVersion;
import org.apache.rocketmq.common.sysflag.MessageSysFlag;
import org.apache.rocketmq.remoting.CommandCustomHeader;
import org.apache.rocketmq.remoting.protocol.LanguageCode;
import org.apache.rocketmq.remoting.protocol.RemotingCommand;
import org.apache.rocketmq.remoting.protocol.RemotingSerializable;
import org.apache.rocketmq.remoting.protocol.SerializeType;
import org.apache.rocketmq.remoting.protocol.admin.ConsumeStats;
import org.apache.rocketmq.remoting.protocol.admin.OffsetWrapper;
import org.apache.rocketmq.remoting.protocol.body.BatchAck;
import org.apache.rocketmq.remoting.protocol.body.BatchAckMessageRequestBody;
import org.apache.rocketmq.remoting.protocol.body.CMResult;
import org.apache.rocketmq.remoting.protocol.body.ClusterInfo;
import org.apache.rocketmq.remoting.protocol.body.ConsumeMessageDirectlyResult;
import org.apache.rocketmq.remoting.protocol.body.ConsumerRunningInfo;
import org.apache.rocketmq.remoting.protocol.body.GetConsumerStatusBody;
import org.apache.rocketmq.remoting.protocol.body.LockBatchRequestBody;
import org.apache.rocketmq.remoting.protocol.body.LockBatchResponseBody;
import org.apache.rocketmq.remoting.protocol.body.ProcessQueueInfo;
import org.apache.rocketmq.remoting.protocol.body.QueryAssignmentResponseBody;
import org.apache.rocketmq.remoting.protocol.body.ResetOffsetBody;
import org.apache.rocketmq.remoting.protocol.body.UnlockBatchRequestBody;
import org.apache.rocketmq.remoting.protocol.header.ConsumerSendMsgBackRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.GetConsumerListByGroupRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.NotifyConsumerIdsChangedRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.PopMessageRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.PullMessageRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.PullMessageResponseHeader;
import org.apache.rocketmq.remoting.protocol.header.QueryConsumerOffsetRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.SendMessageRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.SendMessageRequestHeaderV2;
import org.apache.rocketmq.remoting.protocol.header.SendMessageResponseHeader;
import org.apache.rocketmq.remoting.protocol.header.UpdateConsumerOffsetRequestHeader;
import org.apache.rocketmq.remoting.protocol.heartbeat.ConsumeType;
import org.apache.rocketmq.remoting.protocol.heartbeat.ConsumerData;
import org.apache.rocketmq.remoting.protocol.heartbeat.HeartbeatData;
import org.apache.rocketmq.remoting.protocol.heartbeat.MessageModel;
import org.apache.rocketmq.remoting.protocol.heartbeat.ProducerData;
import org.apache.rocketmq.remoting.protocol.heartbeat.SubscriptionData;
import org.apache.rocketmq.remoting.protocol.route.BrokerData;
import org.apache.rocketmq.remoting.protocol.route.QueueData;
import org.apache.rocketmq.remoting.protocol.route.TopicRouteData;
import org.apache.rocketmq.store.MessageExtEncoder;
import org.apache.rocketmq.store.config.MessageStoreConfig;

/**
 * Writes golden bytes to standard output, made by upstream's own classes and decoded again by them.
 *
 * <p>One JSON object {@code {"entries": [{"name", "kind", "what", "hex", "expect"}]}}; record_golden.py runs it and
 * tests/wire/golden/README.md says what the kinds and their expectations mean.
 */
public final class GoldenRecorder {
    private static final String LONG_TOPIC = "%RETRY%" + "g".repeat(140);
    private static final String NON_ASCII = "caf\u00e9 \u6d88\u606f \ud83d\ude80";
    private static final long BORN = 1_763_640_000_123L;
    private static final List<Map<String, Object>> ENTRIES = new ArrayList<>();

    private GoldenRecorder() {
    }

    public static void main(String[] args) throws Exception {
        commands();
        messages();
        batches();
        properties();
        messageIds();
        bodies();
        hashes();
        uniqIds();
        System.out.println(JSON.toJSONString(object("entries", ENTRIES), JSONWriter.Feature.WriteNulls));
    }

    // ---------------------------------------------------------------- remoting commands

    private static void commands() throws Exception {
        PullMessageRequestHeader pull = new PullMessageRequestHeader();
        pull.setConsumerGroup("group");
        pull.setTopic("topic");
        pull.setQueueId(3);
        pull.setQueueOffset(1L << 40);
        pull.setMaxMsgNums(32);
        pull.setSysFlag(6);
        pull.setCommitOffset(0L);
        pull.setSuspendTimeoutMillis(15_000L);
        pull.setSubscription("TagA || TagB");
        pull.setSubVersion(BORN);
        pull.setExpressionType("TAG");
        pull.setMaxMsgBytes(262_144);
        pull.setBrokerName("broker-a");
        command("pull_request", "PULL_MESSAGE request", () -> request(11, pull, 7));

        SendMessageRequestHeader send = new SendMessageRequestHeader();
        send.setProducerGroup("producers");
        send.setTopic("topic");
        send.setDefaultTopic("TBW102");
        send.setDefaultTopicQueueNums(4);
        send.setQueueId(0);
        send.setSysFlag(0);
        send.setBornTimestamp(BORN);
        send.setFlag(0);
        send.setProperties("KEYS\u0001k1\u0002TAGS\u0001" + NON_ASCII + "\u0002");
        send.setReconsumeTimes(0);
        send.setUnitMode(false);
        send.setMaxReconsumeTimes(16);
        send.setBatch(false);
        send.setBrokerName("broker-a");
        SendMessageRequestHeaderV2 sendV2 = SendMessageRequestHeaderV2.createSendMessageRequestHeaderV2(send);
        command("send_v2_request", "SEND_MESSAGE_V2 request with a body and non-ASCII properties", () -> {
            RemotingCommand command = request(310, sendV2, 8);
            command.setBody(utf8("body " + NON_ASCII));
            return command;
        });

        SendMessageResponseHeader sent = new SendMessageResponseHeader();
        sent.setMsgId("7F00000100002A9F000000000E87D31D");
        sent.setQueueId(0);
        sent.setQueueOffset(41L);
        sent.setTransactionId("7F0000010001002A9F000000000E87D3");
        command("send_response", "SUCCESS response to a send, extra extFields", () -> {
            RemotingCommand command = response(0, null, sent, 8);
            command.addExtField("MSG_REGION", "DefaultRegion");
            command.addExtField("TRACE_ON", "true");
            return command;
        });

        PullMessageResponseHeader found = new PullMessageResponseHeader();
        found.setSuggestWhichBrokerId(0L);
        found.setNextBeginOffset((1L << 40) + 2);
        found.setMinOffset(0L);
        found.setMaxOffset((1L << 40) + 100);
        command("pull_response", "PULL_MESSAGE response FOUND, one stored message as body", () -> {
            RemotingCommand command = response(0, "FOUND", found, 7);
            command.setBody(stored(message("topic", utf8("hello"), Map.of("TAGS", "TagA")), MessageVersion.MESSAGE_VERSION_V1));
            return command;
        });
        command("pull_response_not_found", "PULL_NOT_FOUND with header, no body", () -> response(19, "NO_MESSAGE_IN_QUEUE", found, 7));

        UpdateConsumerOffsetRequestHeader update = new UpdateConsumerOffsetRequestHeader();
        update.setConsumerGroup("group");
        update.setTopic("topic");
        update.setQueueId(3);
        update.setCommitOffset(Long.MAX_VALUE);
        update.setBrokerName("broker-a");
        command("update_offset_oneway", "UPDATE_CONSUMER_OFFSET, oneway, largest offset", () -> {
            RemotingCommand command = request(15, update, Integer.MAX_VALUE);
            command.markOnewayRPC();
            return command;
        });

        QueryConsumerOffsetRequestHeader query = new QueryConsumerOffsetRequestHeader();
        query.setConsumerGroup("group");
        query.setTopic("topic");
        query.setQueueId(3);
        query.setSetZeroIfNotFound(false);
        command("query_offset_request", "QUERY_CONSUMER_OFFSET with a boolean field", () -> request(14, query, 9));

        ConsumerSendMsgBackRequestHeader back = new ConsumerSendMsgBackRequestHeader();
        back.setOffset(243_782_429L);
        back.setGroup("group");
        back.setDelayLevel(-1);
        back.setOriginMsgId("7F0000010001002A9F000000000E87D3");
        back.setOriginTopic("topic");
        back.setMaxReconsumeTimes(16);
        command("send_back_request", "CONSUMER_SEND_MSG_BACK, negative delay level", () -> request(36, back, 10));

        NotifyConsumerIdsChangedRequestHeader notify = new NotifyConsumerIdsChangedRequestHeader();
        notify.setConsumerGroup("group");
        command("notify_ids_changed", "NOTIFY_CONSUMER_IDS_CHANGED, what a broker pushes (oneway)", () -> {
            RemotingCommand command = request(40, notify, -1);
            command.markOnewayRPC();
            return command;
        });

        GetConsumerListByGroupRequestHeader list = new GetConsumerListByGroupRequestHeader();
        list.setConsumerGroup(NON_ASCII);
        command("non_ascii_ext_field", "a request with a non-ASCII extField value", () -> request(38, list, 11));
        command("non_ascii_remark", "an error response with a non-ASCII remark and no extFields",
            () -> response(1, "no consumer for this group, " + NON_ASCII + " \"quoted\"\n\ttail", null, 11));
        command("empty_body", "a response with an empty body, which decodes to none", () -> {
            RemotingCommand command = response(0, null, null, 12);
            command.setBody(new byte[0]);
            return command;
        });
        command("heartbeat_request", "a request without header object: no extFields, JSON body", () -> {
            RemotingCommand command = request(34, null, 13);
            command.setBody(heartbeat().encode());
            return command;
        });
        command("python_language", "language PYTHON, version 0", () -> {
            RemotingCommand command = request(34, null, 14);
            command.setLanguage(LanguageCode.PYTHON);
            command.setVersion(0);
            return command;
        });
        PopMessageRequestHeader pop = new PopMessageRequestHeader();
        pop.setConsumerGroup("group");
        pop.setTopic("topic");
        pop.setQueueId(-1);
        pop.setMaxMsgNums(32);
        pop.setInvisibleTime(60_000L);
        pop.setPollTime(15_000L);
        pop.setBornTime(BORN);
        pop.setInitMode(0);
        pop.setExpType("TAG");
        pop.setExp("*");
        command("pop_request", "POP_MESSAGE: code 200050 does not fit the binary header's 16 bits", () -> request(200_050, pop, 15));
    }

    private interface Maker {
        RemotingCommand make() throws Exception;
    }

    /** Record a command in both header forms, written the way upstream's NettyEncoder writes it. */
    private static void command(String name, String what, Maker maker) throws Exception {
        for (SerializeType type : SerializeType.values()) {
            RemotingCommand command = maker.make();
            command.setSerializeTypeCurrentRPC(type);
            ByteBuf out = Unpooled.buffer();
            command.fastEncodeHeader(out);
            if (command.getBody() != null) {
                out.writeBytes(command.getBody());
            }
            byte[] bytes = new byte[out.readableBytes()];
            out.readBytes(bytes);
            RemotingCommand decoded = RemotingCommand.decode(ByteBuffer.wrap(bytes, 4, bytes.length - 4).slice());
            entry(name + "_" + type.name().toLowerCase(), "command", what + "; header " + type, bytes, object(
                "serialize_type", decoded.getSerializeTypeCurrentRPC().name(),
                "code", decoded.getCode(),
                "language", decoded.getLanguage().name(),
                "version", decoded.getVersion(),
                "opaque", decoded.getOpaque(),
                "flag", decoded.getFlag(),
                "is_response", decoded.isResponseType(),
                "is_oneway", decoded.isOnewayRPC(),
                "remark", decoded.getRemark(),
                "ext_fields", decoded.getExtFields(),
                "body_hex", hex(decoded.getBody())));
        }
    }

    private static RemotingCommand request(int code, CommandCustomHeader header, int opaque) {
        return fixed(RemotingCommand.createRequestCommand(code, header), opaque);
    }

    private static RemotingCommand response(int code, String remark, CommandCustomHeader header, int opaque) {
        RemotingCommand command = RemotingCommand.createResponseCommandWithHeader(code, header);
        command.setRemark(remark);
        return fixed(command, opaque);
    }

    private static RemotingCommand fixed(RemotingCommand command, int opaque) {
        command.setOpaque(opaque);
        command.setVersion(513);
        return command;
    }

    // ---------------------------------------------------------------- stored messages

    private static void messages() throws Exception {
        byte[] body = utf8("hello " + NON_ASCII);
        Map<String, String> tags = Map.of("TAGS", "TagA");
        for (String born : List.of("192.168.1.2", "2001:db8::2")) {
            for (String store : List.of("127.0.0.1", "fe80::1:2:3:4")) {
                MessageExtBrokerInner message = message("topic", body, tags);
                hosts(message, born, store);
                String name = "born_v" + (born.contains(":") ? 6 : 4) + "_store_v" + (store.contains(":") ? 6 : 4);
                message("stored_" + name, "as a broker stores it", stored(message, MessageVersion.MESSAGE_VERSION_V1));
                message("encoded_" + name, "as MessageDecoder.encode writes it", MessageDecoder.encode(message, false));
            }
        }

        Map<String, String> many = new LinkedHashMap<>();
        many.put("KEYS", "order-1 order-2");
        many.put("TAGS", NON_ASCII);
        many.put("UNIQ_KEY", "7F0000010001002A9F000000000E87D3");
        many.put("WAIT", "true");
        many.put(NON_ASCII, "value");
        message("non_ascii_properties", "several properties, non-ASCII in names and values",
            stored(message("topic", body, many), MessageVersion.MESSAGE_VERSION_V1));
        message("no_properties", "property length 0", stored(message("topic", body, Map.of()), MessageVersion.MESSAGE_VERSION_V1));
        message("no_body", "body length 0, which decodes to none",
            stored(message("topic", null, tags), MessageVersion.MESSAGE_VERSION_V1));
        message("v2_long_topic", "magic V2: a topic of 147 bytes", stored(message(LONG_TOPIC, body, tags), MessageVersion.MESSAGE_VERSION_V2));
        message("v2_short_topic", "magic V2 with a short topic", stored(message("topic", body, tags), MessageVersion.MESSAGE_VERSION_V2));
        message("v1_topic_127", "magic V1 with its longest topic, 127 bytes",
            stored(message("t".repeat(127), body, tags), MessageVersion.MESSAGE_VERSION_V1));

        MessageExtBrokerInner extremes = message("topic", body, tags);
        extremes.setQueueId(Integer.MAX_VALUE);
        extremes.setQueueOffset(Long.MAX_VALUE);
        extremes.setCommitLogOffset(Long.MAX_VALUE);
        extremes.setFlag(-1);
        extremes.setReconsumeTimes(16);
        extremes.setPreparedTransactionOffset(-1);
        extremes.setSysFlag(MessageSysFlag.TRANSACTION_COMMIT_TYPE | MessageSysFlag.MULTI_TAGS_FLAG);
        message("extreme_numbers", "largest and negative numbers, transaction and multi-tag bits",
            stored(extremes, MessageVersion.MESSAGE_VERSION_V1));

        byte[] text = utf8("compress me, compress me, compress me; ".repeat(20));
        for (CompressionType type : CompressionType.values()) {
            MessageExtBrokerInner message = message("topic", CompressorFactory.getCompressor(type).compress(text, 5), tags);
            message.setSysFlag(MessageSysFlag.COMPRESSED_FLAG | type.getCompressionFlag());
            message("compressed_" + type.name().toLowerCase(), "a body compressed with " + type,
                stored(message, MessageVersion.MESSAGE_VERSION_V1));
        }
        MessageExtBrokerInner legacy = message("topic", CompressorFactory.getCompressor(CompressionType.ZLIB).compress(text, 5), tags);
        legacy.setSysFlag(MessageSysFlag.COMPRESSED_FLAG);
        message("compressed_legacy", "compressed flag without a compression type: zlib, as old producers send",
            stored(legacy, MessageVersion.MESSAGE_VERSION_V1));
        MessageExtBrokerInner broken = message("topic", utf8("not a zlib stream"), tags);
        broken.setSysFlag(MessageSysFlag.COMPRESSED_FLAG | CompressionType.ZLIB.getCompressionFlag());
        message("compressed_broken", "compressed flag over a body that is not: upstream's decoder gives up (expect null)",
            stored(broken, MessageVersion.MESSAGE_VERSION_V1));

        MessageExtBrokerInner inner = message("topic", MessageDecoder.encodeMessages(subMessages()),
            Map.of("INNER_NUM", "3", "INNER_BASE", "40"));
        inner.setSysFlag(MessageSysFlag.INNER_BATCH_FLAG | MessageSysFlag.NEED_UNWRAP_FLAG);
        message("inner_batch", "one stored message that holds three; expect.inner_messages is what upstream unwraps",
            stored(inner, MessageVersion.MESSAGE_VERSION_V1));
    }

    private static MessageExtBrokerInner message(String topic, byte[] body, Map<String, String> properties) throws Exception {
        MessageExtBrokerInner message = new MessageExtBrokerInner();
        message.setTopic(topic);
        message.setBody(body);
        message.setBodyCRC(body == null ? 0 : UtilAll.crc32(body));
        message.setQueueId(2);
        message.setFlag(5);
        message.setQueueOffset(42);
        message.setCommitLogOffset(243_782_429L);
        message.setBornTimestamp(BORN);
        message.setStoreTimestamp(BORN + 4);
        message.setReconsumeTimes(1);
        hosts(message, "192.168.1.2", "127.0.0.1");
        if (!properties.isEmpty()) {
            MessageAccessor.setProperties(message, new TreeMap<>(properties));
        }
        return message;
    }

    private static void hosts(MessageExt message, String born, String store) throws UnknownHostException {
        message.setBornHost(new InetSocketAddress(InetAddress.getByName(born), 51_234));
        message.setStoreHost(new InetSocketAddress(InetAddress.getByName(store), 10_911));
        if (born.contains(":")) {
            message.setBornHostV6Flag();
        }
        if (store.contains(":")) {
            message.setStoreHostAddressV6Flag();
        }
    }

    /** The bytes a broker writes to its commit log; like its append callback, this sets the physical offset last. */
    private static byte[] stored(MessageExtBrokerInner message, MessageVersion version) {
        MessageStoreConfig config = new MessageStoreConfig();
        config.setMaxMessageSize(1 << 16);
        MessageExtEncoder encoder = new MessageExtEncoder(config);
        message.setVersion(version);
        message.setPropertiesString(MessageDecoder.messageProperties2String(message.getProperties()));
        encoder.encode(message);
        ByteBuffer buffer = encoder.getEncoderBuffer();
        byte[] bytes = new byte[buffer.getInt(0)];
        buffer.get(bytes);
        ByteBuffer.wrap(bytes).putLong(MessageDecoder.PHY_POS_POSITION, message.getCommitLogOffset());
        return bytes;
    }

    private static void message(String name, String what, byte[] bytes) throws Exception {
        MessageExt decoded = MessageDecoder.decode(ByteBuffer.wrap(bytes));
        MessageExt raw = MessageDecoder.decode(ByteBuffer.wrap(bytes), true, false);
        Map<String, Object> expect = decoded == null ? null : object(
            "magic", MessageVersion.valueOfMagicCode(ByteBuffer.wrap(bytes).getInt(4)).name().substring("MESSAGE_VERSION_".length()),
            "store_size", decoded.getStoreSize(),
            "body_crc", decoded.getBodyCRC(),
            "queue_id", decoded.getQueueId(),
            "flag", decoded.getFlag(),
            "queue_offset", decoded.getQueueOffset(),
            "commit_log_offset", decoded.getCommitLogOffset(),
            "stored_sys_flag", raw.getSysFlag(),
            "sys_flag", decoded.getSysFlag(),
            "born_timestamp", decoded.getBornTimestamp(),
            "born_host", host(decoded.getBornHost()),
            "store_timestamp", decoded.getStoreTimestamp(),
            "store_host", host(decoded.getStoreHost()),
            "reconsume_times", decoded.getReconsumeTimes(),
            "prepared_transaction_offset", decoded.getPreparedTransactionOffset(),
            "stored_body_hex", hex(raw.getBody()),
            "body_hex", hex(decoded.getBody()),
            "topic", decoded.getTopic(),
            "properties", decoded.getProperties() == null ? Map.of() : decoded.getProperties(),
            "msg_id", decoded.getMsgId());
        if (decoded != null && MessageSysFlag.check(decoded.getSysFlag(), MessageSysFlag.INNER_BATCH_FLAG)) {
            List<MessageExt> unwrapped = new ArrayList<>();
            MessageDecoder.decodeMessage(decoded, unwrapped);
            List<Object> inner = new ArrayList<>();
            for (MessageExt one : unwrapped) {
                inner.add(object("queue_offset", one.getQueueOffset(), "sys_flag", one.getSysFlag(), "flag", one.getFlag(),
                    "topic", one.getTopic(), "body_hex", hex(one.getBody()), "properties", one.getProperties()));
            }
            expect.put("inner_messages", inner);
        }
        entry(name, "message", what, bytes, expect);
    }

    private static Map<String, Object> host(java.net.SocketAddress address) {
        InetSocketAddress inet = (InetSocketAddress) address;
        return object("ip_hex", hex(inet.getAddress().getAddress()), "text", inet.getAddress().getHostAddress(), "port", inet.getPort());
    }

    // ---------------------------------------------------------------- batch bodies, properties, ids

    private static List<Message> subMessages() {
        Message first = new Message("topic", "TagA", "k1", utf8("one"));
        Message second = new Message("topic", utf8("two " + NON_ASCII));
        second.setFlag(7);
        second.putUserProperty("name", NON_ASCII);
        Message third = new Message("topic", new byte[0]);
        return List.of(first, second, third);
    }

    private static void batches() throws Exception {
        batch("batch_of_three", "MessageDecoder.encodeMessages: tags and keys, non-ASCII and flag, empty body", subMessages());
        batch("batch_of_one", "a batch of one", subMessages().subList(0, 1));
    }

    private static void batch(String name, String what, List<Message> messages) throws Exception {
        byte[] bytes = MessageDecoder.encodeMessages(messages);
        List<Object> decoded = new ArrayList<>();
        for (Message one : MessageDecoder.decodeMessages(ByteBuffer.wrap(bytes))) {
            decoded.add(object("flag", one.getFlag(), "body_hex", hex(one.getBody()), "properties", one.getProperties()));
        }
        entry(name, "batch", what, bytes, object("messages", decoded));
    }

    private static void properties() {
        Map<String, String> map = new LinkedHashMap<>();
        map.put("KEYS", "a b");
        map.put("nothing", null);
        map.put(NON_ASCII, NON_ASCII);
        property("written", "what messageProperties2String writes: null values are left out", MessageDecoder.messageProperties2String(map));
        property("empty", "the empty string", "");
        property("no_trailing_separator", "the last pair without its separator", "a\u00011\u0002b\u00012");
        property("short_pair", "a pair of three characters is the shortest", "a\u00011\u0002");
        property("empty_value", "an empty value is dropped", "name\u0001\u0002b\u00012\u0002");
        property("empty_name", "an empty name is dropped", "\u0001value\u0002b\u00012\u0002");
        property("no_value_separator", "a piece without \\x01 is dropped", "lonely\u0002b\u00012\u0002");
        property("two_value_separators", "the value keeps a second \\x01", "a\u00011\u00012\u0002");
        property("empty_pieces", "separators in a row", "\u0002\u0002a\u00011\u0002\u0002");
        property("repeated_name", "the last value wins", "a\u0001first\u0002a\u0001second\u0002");
        property("spaces", "nothing is trimmed", " a \u0001 1 \u0002");
    }

    private static void property(String name, String what, String text) {
        Map<String, String> decoded = MessageDecoder.string2messageProperties(text);
        entry("properties_" + name, "properties", what, utf8(text), object("properties", new TreeMap<>(decoded)));
    }

    private static void messageIds() throws UnknownHostException {
        for (String ip : List.of("127.0.0.1", "255.255.255.255", "2001:db8::2")) {
            for (long offset : new long[] {0, 243_782_429L, Long.MAX_VALUE}) {
                String id = MessageDecoder.createMessageId(new InetSocketAddress(InetAddress.getByName(ip), 10_911), offset);
                MessageId decoded = MessageDecoder.decodeMessageId(id);
                InetSocketAddress address = (InetSocketAddress) decoded.getAddress();
                entry("message_id_" + ip + "_" + offset, "message_id", "MessageDecoder.createMessageId", UtilAll.string2bytes(id), object(
                    "msg_id", id, "ip_hex", hex(address.getAddress().getAddress()), "text", address.getAddress().getHostAddress(),
                    "port", address.getPort(), "offset", decoded.getOffset()));
            }
        }
    }

    // ---------------------------------------------------------------- JSON bodies

    @SuppressWarnings("deprecation")  // GetConsumerStatusBody: still the answer to request 221
    private static void bodies() {
        HeartbeatData heartbeat = heartbeat();
        json("heartbeat", "HeartbeatData of a push consumer and a producer", heartbeat);

        TopicRouteData route = new TopicRouteData();
        QueueData queues = new QueueData();
        queues.setBrokerName("broker-a");
        queues.setReadQueueNums(8);
        queues.setWriteQueueNums(4);
        queues.setPerm(6);
        route.setQueueDatas(List.of(queues));
        HashMap<Long, String> addresses = new HashMap<>();
        addresses.put(0L, "127.0.0.1:10911");
        addresses.put(1L, "127.0.0.1:11911");
        BrokerData broker = new BrokerData("DefaultCluster", "broker-a", addresses);
        broker.setZoneName(NON_ASCII);
        route.setBrokerDatas(List.of(broker));
        route.setFilterServerTable(new HashMap<>());
        json("route", "TopicRouteData as an old client gets it: bare integer keys in brokerAddrs", route);
        byte[] standard = route.encode(JSONWriter.Feature.BrowserCompatible, JSONWriter.Feature.WriteNonStringKeyAsString,
            JSONWriter.Feature.SortMapEntriesByKeys);
        json("route_standard", "TopicRouteData as the name server writes it for acceptStandardJsonOnly, \\u escapes", standard, route);

        ClusterInfo cluster = new ClusterInfo();
        cluster.setBrokerAddrTable(new TreeMap<>(Map.of("broker-a", broker)));
        cluster.setClusterAddrTable(new TreeMap<>(Map.of("DefaultCluster", new TreeSet<>(Set.of("broker-a", "broker-b")))));
        json("cluster_info", "ClusterInfo: bare integer keys", cluster);

        MessageQueue queue = new MessageQueue("topic", "broker-a", 0);
        MessageQueue other = new MessageQueue("topic", "broker \"b\" {1:2}", 7);
        Set<MessageQueue> queueSet = new TreeSet<>(Arrays.asList(queue, other));
        LockBatchRequestBody lock = new LockBatchRequestBody();
        lock.setConsumerGroup("group");
        lock.setClientId("127.0.0.1@1#2");
        lock.setMqSet(queueSet);
        json("lock_batch_request", "LockBatchRequestBody", lock);
        LockBatchResponseBody locked = new LockBatchResponseBody();
        locked.setLockOKMQSet(queueSet);
        json("lock_batch_response", "LockBatchResponseBody", locked);
        UnlockBatchRequestBody unlock = new UnlockBatchRequestBody();
        unlock.setConsumerGroup("group");
        unlock.setClientId("127.0.0.1@1#2");
        unlock.setMqSet(queueSet);
        json("unlock_batch_request", "UnlockBatchRequestBody", unlock);

        Map<MessageQueue, Long> offsets = new TreeMap<>();
        offsets.put(queue, 4L);
        offsets.put(other, Long.MAX_VALUE);
        ResetOffsetBody reset = new ResetOffsetBody();
        reset.setOffsetTable(offsets);
        json("reset_offset", "ResetOffsetBody: object-literal map keys, quotes and braces inside a key", reset);
        OffsetSerializeWrapper file = new OffsetSerializeWrapper();
        file.setOffsetTable(new ConcurrentSkipListMap<>(Map.of(queue, new AtomicLong(4))));
        json("local_offsets", "OffsetSerializeWrapper, the broadcasting consumer's offsets.json (pretty)",
            utf8(file.toJson(true)), file);
        ResetOffsetBody nothing = new ResetOffsetBody();
        nothing.setOffsetTable(new TreeMap<>());
        json("reset_offset_empty", "ResetOffsetBody with an empty table", nothing);
        GetConsumerStatusBody status = new GetConsumerStatusBody();
        status.setMessageQueueTable(offsets);
        status.setConsumerTable(new TreeMap<>(Map.of("127.0.0.1@1#2", offsets)));
        json("consumer_status", "GetConsumerStatusBody: object-literal keys, also one level down", status);
        OffsetWrapper wrapper = new OffsetWrapper();
        wrapper.setBrokerOffset(10);
        wrapper.setConsumerOffset(4);
        wrapper.setPullOffset(6);
        wrapper.setLastTimestamp(BORN);
        ConsumeStats stats = new ConsumeStats();
        stats.setConsumeTps(1.5);
        stats.setOffsetTable(new TreeMap<>(Map.of(queue, wrapper)));
        json("consume_stats", "ConsumeStats: object-literal keys to objects, a fraction", stats);

        SubscriptionData subscription = new SubscriptionData("topic", "*");
        subscription.setSubVersion(BORN);
        ConsumerRunningInfo info = new ConsumerRunningInfo();
        info.getProperties().setProperty("PROP_CONSUME_TYPE", "CONSUME_PASSIVELY");
        info.setSubscriptionSet(new TreeSet<>(Set.of(subscription)));
        info.setMqTable(new TreeMap<>(Map.of(queue, new ProcessQueueInfo())));
        info.setJstack("main\n\tat " + NON_ASCII);
        json("consumer_running_info", "ConsumerRunningInfo: object-literal keys in mqTable", info);

        MessageQueueAssignment assignment = new MessageQueueAssignment();
        assignment.setMessageQueue(queue);
        assignment.setMode(MessageRequestMode.PULL);
        QueryAssignmentResponseBody assignments = new QueryAssignmentResponseBody();
        assignments.setMessageQueueAssignments(new LinkedHashSet<>(List.of(assignment)));
        json("query_assignment_response", "QueryAssignmentResponseBody", assignments);

        ConsumeMessageDirectlyResult result = new ConsumeMessageDirectlyResult();
        result.setConsumeResult(CMResult.CR_THROW_EXCEPTION);
        result.setRemark("java.lang.IllegalStateException: " + NON_ASCII);
        result.setSpentTimeMills(12);
        json("consume_directly_result", "ConsumeMessageDirectlyResult", result);

        BitSet bits = new BitSet();
        bits.set(0);
        bits.set(9);
        BatchAck ack = new BatchAck();
        ack.setConsumerGroup("group");
        ack.setTopic("topic");
        ack.setRetry("0");
        ack.setStartOffset(40);
        ack.setQueueId(2);
        ack.setReviveQueueId(3);
        ack.setPopTime(BORN);
        ack.setInvisibleTime(60_000);
        ack.setBitSet(bits);
        BatchAckMessageRequestBody acks = new BatchAckMessageRequestBody();
        acks.setBrokerName("broker-a");
        acks.setAcks(List.of(ack));
        json("batch_ack_request", "BatchAckMessageRequestBody: offsets 40 and 49 acknowledged", acks);
    }

    private static HeartbeatData heartbeat() {
        SubscriptionData tags = new SubscriptionData("topic", "TagA || TagB");
        tags.setTagsSet(new TreeSet<>(Arrays.asList("TagA", "TagB")));
        tags.setCodeSet(new TreeSet<>(Arrays.asList("TagA".hashCode(), "TagB".hashCode())));
        tags.setSubVersion(BORN);
        SubscriptionData retry = new SubscriptionData("%RETRY%group", "*");
        retry.setSubVersion(BORN);
        ConsumerData consumer = new ConsumerData();
        consumer.setGroupName("group");
        consumer.setConsumeType(ConsumeType.CONSUME_PASSIVELY);
        consumer.setMessageModel(MessageModel.CLUSTERING);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET);
        consumer.setSubscriptionDataSet(new TreeSet<>(Arrays.asList(tags, retry)));
        ProducerData producer = new ProducerData();
        producer.setGroupName("producers");
        HeartbeatData heartbeat = new HeartbeatData();
        heartbeat.setClientID("127.0.0.1@1#2");
        heartbeat.setConsumerDataSet(new LinkedHashSet<>(List.of(consumer)));
        heartbeat.setProducerDataSet(new LinkedHashSet<>(List.of(producer)));
        return heartbeat;
    }

    private static void json(String name, String what, RemotingSerializable body) {
        json(name, what, body.encode(), body);
    }

    /** The expected value is written a second time by fastjson, in standard JSON; maps with object keys become pairs. */
    private static void json(String name, String what, byte[] bytes, Object body) {
        entry("json_" + name, "json", what, bytes, object("text", new String(bytes, StandardCharsets.UTF_8), "value", plain(body)));
    }

    /** A bean as plain JSON values; a map whose keys are objects becomes a list of [key, value]. */
    @SuppressWarnings("unchecked")
    private static Object plain(Object value) {
        if (value instanceof Map<?, ?> map) {
            boolean objectKeys = map.keySet().stream().anyMatch(key -> key instanceof MessageQueue);
            if (objectKeys) {
                List<Object> pairs = new ArrayList<>();
                map.forEach((key, each) -> pairs.add(List.of(plain(key), plain(each))));
                return pairs;
            }
            Map<String, Object> result = new TreeMap<>();
            map.forEach((key, each) -> {
                if (each != null) {
                    result.put(String.valueOf(key), plain(each));
                }
            });
            return result;
        }
        if (value instanceof Iterable<?> items) {
            List<Object> result = new ArrayList<>();
            items.forEach(item -> result.add(plain(item)));
            return result;
        }
        if (value instanceof Enum<?> constant) {
            return constant.name();
        }
        if (value == null || value instanceof String || value instanceof Number || value instanceof Boolean) {
            return value;
        }
        if (value instanceof BitSet bits) {
            return java.util.Base64.getEncoder().encodeToString(bits.toByteArray());
        }
        Map<String, Object> result = new TreeMap<>();
        ObjectWriter<?> bean = JSONFactory.getDefaultObjectWriterProvider().getObjectWriter(value.getClass());
        for (Object writer : bean.getFieldWriters()) {
            FieldWriter<Object> field = (FieldWriter<Object>) writer;
            Object each = plain(field.getFieldValue(value));
            if (each != null) {
                result.put(field.fieldName, each);
            }
        }
        return result;
    }

    // ---------------------------------------------------------------- hashes and unique ids

    private static void hashes() {
        int number = 0;
        for (String text : List.of("", "a", "TagA", "TagB", "*", "Aa", "BB", "polygenelubricants", NON_ASCII, "\u6807\u7b7e",
            "\ud83d\ude80", "\ud83d\ude80\ud83d\ude80 tag", "z".repeat(100))) {
            entry("hash_" + number++, "hash", "String.hashCode", utf8(text), object("text", text, "hash", text.hashCode()));
        }
    }

    private static void uniqIds() throws InterruptedException {
        uniqId("uniq_id_v4", "a fixed id of a host with IPv4", "C0A80102" + "FF31" + "18B4AAC2" + "0036EE80" + "FFFE");
        uniqId("uniq_id_v6", "a fixed id of a host with IPv6", "20010DB8000000000000000000000002" + "002A" + "18B4AAC2" + "0036EE80" + "0000");
        String created = MessageClientIDSetter.createUniqID();
        Thread.sleep(5);  // read within its own millisecond, an id is dated a month back
        uniqId("uniq_id_created", "made by MessageClientIDSetter.createUniqID when this was recorded", created);
    }

    private static void uniqId(String name, String what, String id) {
        entry(name, "uniq_id", what, UtilAll.string2bytes(id), object(
            "id", id,
            "ip", MessageClientIDSetter.getIPStrFromID(id),
            "ip_hex", hex(MessageClientIDSetter.getIPFromID(id)),
            "pid", MessageClientIDSetter.getPidFromID(id),
            "nearly_time_ms", MessageClientIDSetter.getNearlyTimeFromID(id).getTime(),
            "recorded_at_ms", System.currentTimeMillis(),
            "time_zone", java.util.TimeZone.getDefault().getID()));
    }

    // ---------------------------------------------------------------- helpers

    private static void entry(String name, String kind, String what, byte[] bytes, Map<String, Object> expect) {
        ENTRIES.add(object("name", name, "kind", kind, "what", what, "hex", hex(bytes), "expect", expect));
    }

    private static Map<String, Object> object(Object... keysAndValues) {
        Map<String, Object> result = new LinkedHashMap<>();
        for (int i = 0; i < keysAndValues.length; i += 2) {
            result.put((String) keysAndValues[i], keysAndValues[i + 1]);
        }
        return result;
    }

    private static byte[] utf8(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static String hex(byte[] bytes) {
        return bytes == null ? null : java.util.HexFormat.of().formatHex(bytes);
    }
}

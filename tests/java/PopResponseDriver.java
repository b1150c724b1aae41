import java.io.IOException;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.util.HashMap;
import java.util.Map;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.ClientConfig;
import org.apache.rocketmq.client.consumer.PopResult;
import org.apache.rocketmq.client.impl.MQClientAPIImpl;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.remoting.CommandCustomHeader;
import org.apache.rocketmq.remoting.netty.NettyClientConfig;
import org.apache.rocketmq.remoting.protocol.RemotingCommand;
import org.apache.rocketmq.remoting.protocol.header.ExtraInfoUtil;
import org.apache.rocketmq.remoting.protocol.header.PopMessageRequestHeader;

/**
 * Has upstream's client read answers to a pop, given on standard input: one answer line per command line.
 *
 * <p>By {@link CommandLoop}. A command is ORDER|FIELDS|BODY: whether the pop was an ordered one; the
 * answer's fields, NAME=VALUE separated by "&"; the messages as hex. The answer tells of each message
 * TOPIC/RECEIPT/FIRST-POP-TIME/RECONSUME-TIMES/REAL-TOPIC, separated by "|"; or "!" for any exception.
 */
public final class PopResponseDriver {
    private PopResponseDriver() {
    }

    public static void main(String[] args) throws IOException, ReflectiveOperationException {
        MQClientAPIImpl api = new MQClientAPIImpl(new NettyClientConfig(), null, null, new ClientConfig());
        Method read = MQClientAPIImpl.class.getDeclaredMethod(
            "processPopResponse", String.class, RemotingCommand.class, String.class, CommandCustomHeader.class);
        read.setAccessible(true);
        CommandLoop.run(line -> answer(api, read, line.split("\\|", -1)));
    }

    private static String answer(MQClientAPIImpl api, Method read, String[] words) throws IllegalAccessException {
        PopMessageRequestHeader request = new PopMessageRequestHeader();
        request.setTopic("topic");
        request.setOrder(Boolean.parseBoolean(words[0]));
        Map<String, String> fields = new HashMap<>();
        for (String field : words[1].split("&")) {
            int equals = field.indexOf('=');
            fields.put(field.substring(0, equals), field.substring(equals + 1));
        }
        RemotingCommand response = RemotingCommand.createResponseCommand(0, "FOUND");
        response.setExtFields((HashMap<String, String>) fields);
        response.setBody(bytes(words[2]));
        try {
            PopResult result = (PopResult) read.invoke(api, "broker-a", response, "topic", request);
            return result.getMsgFoundList().stream().map(PopResponseDriver::told).collect(Collectors.joining("|"));
        } catch (InvocationTargetException e) {
            return "!";
        }
    }

    private static String told(MessageExt message) {
        String receipt = message.getProperty("POP_CK");
        String realTopic = ExtraInfoUtil.getRealTopic(ExtraInfoUtil.split(receipt), "topic", "group");
        return String.join("/", message.getTopic(), receipt, message.getProperty("1ST_POP_TIME"),
            String.valueOf(message.getReconsumeTimes()), realTopic);
    }

    private static byte[] bytes(String hex) {
        byte[] bytes = new byte[hex.length() / 2];
        for (int i = 0; i < bytes.length; i++) {
            bytes[i] = (byte) Integer.parseInt(hex.substring(2 * i, 2 * i + 2), 16);
        }
        return bytes;
    }
}

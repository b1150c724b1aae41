import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.TreeSet;
import org.apache.rocketmq.client.AccessChannel;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.trace.TraceBean;
import org.apache.rocketmq.client.trace.TraceContext;
import org.apache.rocketmq.client.trace.TraceDataEncoder;
import org.apache.rocketmq.client.trace.TraceTransferBean;
import org.apache.rocketmq.client.trace.TraceType;
import org.apache.rocketmq.common.message.MessageType;

/**
 * Encodes trace contexts with upstream's TraceDataEncoder: one answer line per command line.
 *
 * <p>By {@link CommandLoop}. Texts are the hex digits of their UTF-8 behind an x, or "null". An
 * answer is the encoded context, then the keys that are not empty, sorted.
 *
 * <pre>
 * TYPE TIMESTAMP REGION GROUP REQUEST COST SUCCESS CODE BEAN...
 * </pre>
 *
 * <p>where BEAN is twelve words: MSGID RETRIES KEYS TOPIC TAGS STOREHOST BODYLENGTH OFFSETMSGID MSGTYPE TRANSACTIONID
 * STATE CHECKED.
 */
public final class TraceDataDriver {
    private TraceDataDriver() {
    }

    public static void main(String[] args) throws IOException {
        CommandLoop.run(line -> answer(line.split(" ")));
    }

    private static String answer(String[] words) {
        TraceContext context = new TraceContext();
        context.setTimeStamp(Long.parseLong(words[1]));
        context.setRegionId(text(words[2]));
        context.setGroupName(text(words[3]));
        context.setRequestId(text(words[4]));
        context.setAccessChannel(AccessChannel.LOCAL);
        context.setTraceType(TraceType.valueOf(words[0]));
        context.setCostTime(Integer.parseInt(words[5]));
        context.setSuccess(Boolean.parseBoolean(words[6]));
        context.setContextCode(Integer.parseInt(words[7]));
        int next = 8;
        List<TraceBean> beans = new ArrayList<>();
        while (next < words.length) {
            TraceBean bean = new TraceBean();
            bean.setMsgId(text(words[next++]));
            bean.setRetryTimes(Integer.parseInt(words[next++]));
            bean.setKeys(text(words[next++]));
            bean.setTopic(text(words[next++]));
            bean.setTags(text(words[next++]));
            bean.setStoreHost(text(words[next++]));
            bean.setBodyLength(Integer.parseInt(words[next++]));
            bean.setOffsetMsgId(text(words[next++]));
            bean.setMsgType(MessageType.valueOf(words[next++]));
            bean.setTransactionId(text(words[next++]));
            bean.setTransactionState(LocalTransactionState.valueOf(words[next++]));
            bean.setFromTransactionCheck(Boolean.parseBoolean(words[next++]));
            beans.add(bean);
        }
        context.setTraceBeans(beans);
        TraceTransferBean encoded = TraceDataEncoder.encoderFromContextBean(context);
        StringBuilder answer = new StringBuilder(hex(encoded.getTransData()));
        for (String key : new TreeSet<>(encoded.getTransKey())) {
            if (!key.isEmpty()) { // two spaces in a row make one: it finds nothing
                answer.append(' ').append(hex(key));
            }
        }
        return answer.toString();
    }

    private static String text(String word) {
        return word.equals("null") ? null
            : new String(HexFormat.of().parseHex(word.substring(1)), StandardCharsets.UTF_8);
    }

    private static String hex(String text) {
        return "x" + HexFormat.of().formatHex(text.getBytes(StandardCharsets.UTF_8));
    }
}

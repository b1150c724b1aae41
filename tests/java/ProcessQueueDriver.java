import java.io.IOException;
import java.lang.reflect.Field;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.impl.consumer.ProcessQueue;
import org.apache.rocketmq.common.message.MessageAccessor;
import org.apache.rocketmq.common.message.MessageConst;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * Runs upstream's ProcessQueue on commands from standard input: one answer line per command line.
 *
 * <p>By {@link CommandLoop}. A message is written
 * as OFFSET:BODYSIZE[:MAX_OFFSET]; a body of size 0 is null, as upstream decodes it.
 *
 * <pre>
 * new                    start over with an empty queue
 * put M...               putMessage               take N       takeMessages: the offsets
 * remove M...            removeMessage            commit       rollback       again M...   makeMessageToConsumeAgain
 * hasTemp  contains O    clear  span  consuming   begin O...   set their start time, as a consume task does
 * fail O...              sending these back shall fail from now on
 * clean MINUTES [orderly] cleanExpiredMsg: the offsets that it tried to send back
 * advance MS             let that much time pass  touchLock  touchPull  lockExpired  pullExpired
 * state                  count size backlog span consuming queueOffsetMax | offsets | taken offsets
 * </pre>
 */
public final class ProcessQueueDriver {
    private final Consumer consumer = new Consumer();
    private ProcessQueue queue = new ProcessQueue();

    private ProcessQueueDriver() {
    }

    public static void main(String[] args) throws IOException {
        ProcessQueueDriver driver = new ProcessQueueDriver();
        CommandLoop.run(line -> driver.run(line.split(" ")));
    }

    private Object run(String[] words) throws ReflectiveOperationException {
        switch (words[0]) {
            case "new":
                queue = new ProcessQueue();
                consumer.failing = Set.of();
                return "ok";
            case "put":
                return queue.putMessage(messages(words));
            case "remove":
                return queue.removeMessage(messages(words));
            case "take":
                return offsets(queue.takeMessages(Integer.parseInt(words[1])));
            case "commit":
                return queue.commit();
            case "rollback":
                queue.rollback();
                return "ok";
            case "again":
                queue.makeMessageToConsumeAgain(messages(words));
                return "ok";
            case "hasTemp":
                return queue.hasTempMessage();
            case "contains":
                return queue.containsMessage(messages(words).get(0));
            case "clear":
                queue.clear();
                return "ok";
            case "span":
                return queue.getMaxSpan();
            case "consuming":
                return field("consuming");
            case "begin":
                for (MessageExt asked : messages(words)) {
                    MessageExt message = queue.getMsgTreeMap().get(asked.getQueueOffset());
                    if (message != null) {
                        startedAt(message, System.currentTimeMillis());
                    }
                }
                return "ok";
            case "fail":
                consumer.failing = messages(words).stream().map(MessageExt::getQueueOffset).collect(Collectors.toSet());
                return "ok";
            case "clean":
                consumer.setConsumeTimeout(Long.parseLong(words[1]));
                consumer.orderly = words.length > 2;
                consumer.tried.clear();
                queue.cleanExpiredMsg(consumer);
                return offsets(consumer.tried);
            case "advance":
                advance(Long.parseLong(words[1]));
                return "ok";
            case "touchLock":
                queue.setLastLockTimestamp(System.currentTimeMillis());
                return "ok";
            case "touchPull":
                queue.setLastPullTimestamp(System.currentTimeMillis());
                return "ok";
            case "lockExpired":
                return queue.isLockExpired();
            case "pullExpired":
                return queue.isPullExpired();
            case "state":
                return queue.getMsgCount() + " " + queue.getMsgSize() + " " + queue.getMsgAccCnt() + " " + queue.getMaxSpan()
                    + " " + field("consuming") + " " + field("queueOffsetMax")
                    + " | " + offsets(queue.getMsgTreeMap().values()) + " | " + offsets(taken().values());
            default:
                throw new IllegalArgumentException(words[0]);
        }
    }

    /** ProcessQueue reads the machine's clock: time passes by moving every stamp back. */
    private void advance(long millis) throws ReflectiveOperationException {
        queue.setLastLockTimestamp(queue.getLastLockTimestamp() - millis);
        queue.setLastPullTimestamp(queue.getLastPullTimestamp() - millis);
        for (MessageExt message : queue.getMsgTreeMap().values()) {
            String started = MessageAccessor.getConsumeStartTimeStamp(message);
            if (started != null) {
                startedAt(message, Long.parseLong(started) - millis);
            }
        }
    }

    private static void startedAt(MessageExt message, long timestamp) {
        MessageAccessor.setConsumeStartTimeStamp(message, String.valueOf(timestamp));
    }

    private static List<MessageExt> messages(String[] words) {
        List<MessageExt> result = new ArrayList<>();
        for (int i = 1; i < words.length; i++) {
            String[] parts = words[i].split(":");
            MessageExt message = new MessageExt();
            message.setQueueOffset(Long.parseLong(parts[0]));
            if (parts.length > 1 && !parts[1].equals("0")) {
                message.setBody(new byte[Integer.parseInt(parts[1])]);
            }
            if (parts.length > 2) {
                MessageAccessor.putProperty(message, MessageConst.PROPERTY_MAX_OFFSET, parts[2]);
            }
            result.add(message);
        }
        return result;
    }

    private static String offsets(Iterable<MessageExt> messages) {
        StringBuilder result = new StringBuilder();
        for (MessageExt message : messages) {
            result.append(result.length() == 0 ? "" : ",").append(message.getQueueOffset());
        }
        return result.toString();
    }

    @SuppressWarnings("unchecked")
    private Map<Long, MessageExt> taken() throws ReflectiveOperationException {
        return (TreeMap<Long, MessageExt>) field("consumingMsgOrderlyTreeMap");
    }

    private Object field(String name) throws ReflectiveOperationException {
        Field field = ProcessQueue.class.getDeclaredField(name);
        field.setAccessible(true);
        return field.get(queue);
    }

    /** Stands for the push consumer in cleanExpiredMsg: notes what it shall send back, and fails on demand. */
    private static final class Consumer extends DefaultMQPushConsumer {
        private final List<MessageExt> tried = new ArrayList<>();
        private Set<Long> failing = new HashSet<>();
        private boolean orderly;

        Consumer() {
            super("group");
        }

        @Override
        @SuppressWarnings("deprecation")
        public boolean isConsumeOrderly() {
            return orderly;
        }

        @Override
        @SuppressWarnings("deprecation")
        public void sendMessageBack(MessageExt message, int delayLevel) throws MQClientException {
            if (delayLevel != 3) {
                throw new IllegalStateException("delay level " + delayLevel);
            }
            tried.add(message);
            if (failing.contains(message.getQueueOffset())) {
                throw new MQClientException("told to fail", null);
            }
        }
    }
}

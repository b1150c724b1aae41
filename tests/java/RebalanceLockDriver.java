import java.io.IOException;
import java.lang.reflect.Field;
import java.lang.reflect.Method;
import java.util.Arrays;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;
import org.apache.rocketmq.broker.client.rebalance.RebalanceLockManager;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * Runs upstream's RebalanceLockManager on commands from standard input: one answer line per command line.
 *
 * <p>By {@link CommandLoop}. A queue is written as
 * TOPIC/BROKER/ID.
 *
 * <pre>
 * new                          start over without locks
 * tryLock GROUP CLIENT Q       isLocked GROUP CLIENT Q
 * tryLockBatch GROUP CLIENT Q...   the queues granted, sorted
 * unlockBatch GROUP CLIENT Q...
 * isLockAllExpired GROUP
 * advance MS                   let that much time pass
 * </pre>
 */
public final class RebalanceLockDriver {
    private RebalanceLockManager locks = new RebalanceLockManager();

    private RebalanceLockDriver() {
    }

    public static void main(String[] args) throws IOException {
        RebalanceLockDriver driver = new RebalanceLockDriver();
        CommandLoop.run(line -> driver.run(line.split(" ")));
    }

    private Object run(String[] words) throws ReflectiveOperationException {
        switch (words[0]) {
            case "new":
                locks = new RebalanceLockManager();
                return "ok";
            case "tryLock":
                return locks.tryLock(words[1], queue(words[3]), words[2]);
            case "isLocked":
                return isLocked(words[1], queue(words[3]), words[2]);
            case "tryLockBatch":
                return locks.tryLockBatch(words[1], queues(words), words[2]).stream().map(RebalanceLockDriver::word)
                    .sorted().collect(Collectors.joining(" "));
            case "unlockBatch":
                locks.unlockBatch(words[1], queues(words), words[2]);
                return "ok";
            case "isLockAllExpired":
                return locks.isLockAllExpired(words[1]);
            case "advance":
                advance(Long.parseLong(words[1]));
                return "ok";
            default:
                throw new IllegalArgumentException(words[0]);
        }
    }

    private boolean isLocked(String group, MessageQueue queue, String client) throws ReflectiveOperationException {
        Method method = RebalanceLockManager.class
            .getDeclaredMethod("isLocked", String.class, MessageQueue.class, String.class);
        method.setAccessible(true);
        return (Boolean) method.invoke(locks, group, queue, client);
    }

    /** RebalanceLockManager reads the machine's clock: time passes by moving every stamp back. */
    private void advance(long millis) throws ReflectiveOperationException {
        Field table = RebalanceLockManager.class.getDeclaredField("mqLockTable");
        table.setAccessible(true);
        for (Object entries : ((Map<?, ?>) table.get(locks)).values()) {
            for (Object entry : ((Map<?, ?>) entries).values()) {
                Field stamp = entry.getClass().getDeclaredField("lastUpdateTimestamp");
                stamp.setAccessible(true);
                stamp.setLong(entry, stamp.getLong(entry) - millis);
            }
        }
    }

    private static Set<MessageQueue> queues(String[] words) {
        return Arrays.stream(words).skip(3).map(RebalanceLockDriver::queue).collect(Collectors.toSet());
    }

    private static MessageQueue queue(String word) {
        String[] parts = word.split("/");
        return new MessageQueue(parts[0], parts[1], Integer.parseInt(parts[2]));
    }

    private static String word(MessageQueue queue) {
        return queue.getTopic() + "/" + queue.getBrokerName() + "/" + queue.getQueueId();
    }
}

import java.io.IOException;
import java.util.Arrays;
import java.util.Set;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.ClientConfig;
import org.apache.rocketmq.client.consumer.store.LocalFileOffsetStore;
import org.apache.rocketmq.client.consumer.store.ReadOffsetType;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.impl.factory.MQClientInstance;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * Runs upstream's LocalFileOffsetStore on commands from standard input: one answer line per command line.
 *
 * <p>The folder comes with -Drocketmq.client.localOffsetStoreDir, the client id as argument. By {@link
 * CommandLoop}. A queue is written as TOPIC/BROKER/ID.
 *
 * <pre>
 * new GROUP                    a store, its file loaded
 * update Q OFFSET BOOL         increase only or not
 * freeze Q OFFSET
 * read TYPE Q                  memory, store or memory-first
 * persist Q                    persistAll Q...
 * remove Q
 * clone [TOPIC]                Q=OFFSET..., sorted
 * </pre>
 */
public final class LocalFileOffsetStoreDriver {
    private final MQClientInstance client;
    private LocalFileOffsetStore store;

    private LocalFileOffsetStoreDriver(String clientId) {
        client = new MQClientInstance(new ClientConfig(), 0, clientId);
    }

    public static void main(String[] args) throws IOException {
        LocalFileOffsetStoreDriver driver = new LocalFileOffsetStoreDriver(args[0]);
        CommandLoop.run(line -> driver.run(line.split(" ")));
        System.exit(0); // the client's threads would keep the JVM alive
    }

    private Object run(String[] words) throws MQClientException {
        switch (words[0]) {
            case "new":
                store = new LocalFileOffsetStore(client, words[1]);
                store.load();
                return "ok";
            case "update":
                store.updateOffset(queue(words[1]), Long.parseLong(words[2]), Boolean.parseBoolean(words[3]));
                return "ok";
            case "freeze":
                store.updateAndFreezeOffset(queue(words[1]), Long.parseLong(words[2]));
                return "ok";
            case "read":
                return store.readOffset(queue(words[2]), type(words[1]));
            case "persist":
                store.persist(queue(words[1]));
                return "ok";
            case "persistAll":
                store.persistAll(queues(words));
                return "ok";
            case "remove":
                store.removeOffset(queue(words[1]));
                return "ok";
            case "clone":
                return store.cloneOffsetTable(words.length > 1 ? words[1] : "").entrySet().stream()
                    .map(entry -> word(entry.getKey()) + "=" + entry.getValue()).sorted()
                    .collect(Collectors.joining(" "));
            default:
                throw new IllegalArgumentException(words[0]);
        }
    }

    private static ReadOffsetType type(String word) {
        switch (word) {
            case "memory":
                return ReadOffsetType.READ_FROM_MEMORY;
            case "store":
                return ReadOffsetType.READ_FROM_STORE;
            default:
                return ReadOffsetType.MEMORY_FIRST_THEN_STORE;
        }
    }

    private static Set<MessageQueue> queues(String[] words) {
        return Arrays.stream(words).skip(1).map(LocalFileOffsetStoreDriver::queue).collect(Collectors.toSet());
    }

    private static MessageQueue queue(String word) {
        String[] parts = word.split("/");
        return new MessageQueue(parts[0], parts[1], Integer.parseInt(parts[2]));
    }

    private static String word(MessageQueue queue) {
        return queue.getTopic() + "/" + queue.getBrokerName() + "/" + queue.getQueueId();
    }
}

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.Message;

/**
 * Fills a topic with the Java client. Arguments: NAMESRV TOPIC MESSAGES BODY_BYTES [BATCH]. Prints one JSON line.
 */
public final class PeerProduce {
    private PeerProduce() {
    }

    public static void main(String[] args) throws Exception {
        int count = Integer.parseInt(args[2]);
        int size = Integer.parseInt(args[3]);
        int batchSize = args.length > 4 ? Integer.parseInt(args[4]) : 64;
        byte[] body = new byte[size];
        Arrays.fill(body, (byte) 'x');
        DefaultMQProducer producer = new DefaultMQProducer("peer_produce");
        producer.setNamesrvAddr(args[0]);
        producer.setSendMsgTimeout(10_000);
        producer.start();
        long start = System.nanoTime();
        List<Message> batch = new ArrayList<>(batchSize);
        for (int i = 0; i < count; i++) {
            batch.add(new Message(args[1], "TagA", "k" + i, body));
            if (batch.size() == batchSize || i == count - 1) {
                producer.send(batch);
                batch.clear();
            }
        }
        double seconds = (System.nanoTime() - start) / 1e9;
        System.out.printf(Locale.ROOT, "{\"bench\": \"produce\", \"client\": \"java\", \"messages\": %d, \"body_bytes\": %d, "
                + "\"batch\": %d, \"seconds\": %.3f, \"per_second\": %.0f}%n",
            count, size, batchSize, seconds, count / seconds);
        producer.shutdown();
        System.exit(0);
    }
}

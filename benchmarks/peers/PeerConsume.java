import java.util.List;
import java.util.Locale;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * Counts messages with the Java push consumer until MESSAGES came, or TIMEOUT_S passed (then the exit code is 1).
 *
 * <p>Arguments: NAMESRV TOPIC GROUP MESSAGES [concurrently|orderly] [BATCH] [PULL_BATCH] [QUEUE_THRESHOLD] [TIMEOUT_S].
 * NAMESRV may be a proxy's remoting port. Prints one JSON line: seconds from start to the first message, from there to
 * the last, and the rates over both and over the latter.
 */
public final class PeerConsume {
    private final int wanted;
    private final AtomicInteger got = new AtomicInteger();
    private final AtomicLong firstAt = new AtomicLong();
    private final CountDownLatch done = new CountDownLatch(1);

    private PeerConsume(int wanted) {
        this.wanted = wanted;
    }

    public static void main(String[] args) throws Exception {
        PeerConsume peer = new PeerConsume(Integer.parseInt(args[3]));
        boolean orderly = args.length > 4 && args[4].equals("orderly");
        int batch = number(args, 5, 1);
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(args[2]);
        consumer.setNamesrvAddr(args[0]);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(args[1], "*");
        consumer.setConsumeMessageBatchMaxSize(batch);
        consumer.setPullBatchSize(number(args, 6, 32));
        consumer.setPullThresholdForQueue(number(args, 7, 1000));
        if (orderly) {
            consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
                peer.count(messages);
                return ConsumeOrderlyStatus.SUCCESS;
            });
        } else {
            consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
                peer.count(messages);
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
        }
        long start = System.nanoTime();
        consumer.start();
        boolean complete = peer.done.await(number(args, 8, 120), TimeUnit.SECONDS);
        long end = System.nanoTime();
        int count = peer.got.get();
        long first = count == 0 ? end : peer.firstAt.get();
        double seconds = (end - first) / 1e9;
        System.out.printf(Locale.ROOT, "{\"bench\": \"consume\", \"client\": \"java\", \"mode\": \"%s\", \"batch\": %d, "
                + "\"complete\": %b, \"messages\": %d, \"first_message_s\": %.3f, \"seconds\": %.3f, \"per_second\": %.0f, "
                + "\"per_second_from_start\": %.0f}%n",
            orderly ? "orderly" : "concurrently", batch, complete, count, (first - start) / 1e9, seconds,
            count == 0 ? 0 : count / seconds, count / ((end - start) / 1e9));
        consumer.shutdown();
        System.exit(complete ? 0 : 1);
    }

    private void count(List<MessageExt> messages) {
        firstAt.compareAndSet(0, System.nanoTime());
        if (got.addAndGet(messages.size()) >= wanted) {
            done.countDown();
        }
    }

    private static int number(String[] args, int index, int otherwise) {
        return args.length > index ? Integer.parseInt(args[index]) : otherwise;
    }
}

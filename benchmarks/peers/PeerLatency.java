import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.Locale;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLongArray;
import java.util.concurrent.locks.LockSupport;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * Time from before the send to the listener's call, producer and consumer in one Java process.
 *
 * <p>Arguments: NAMESRV TOPIC MESSAGES [PER_SECOND]. A first round of as many messages warms both up and is not counted.
 * Prints one JSON line, milliseconds; the exit code is 1 when messages were missing.
 */
public final class PeerLatency {
    private static final int BODY_BYTES = 128;
    private static final long WAIT_S = 60;

    /** The messages of one round: when each was received, and a latch for all of them. */
    private static final class Round {
        private final AtomicLongArray nanos;
        private final CountDownLatch missing;

        Round(int count) {
            nanos = new AtomicLongArray(count);
            missing = new CountDownLatch(count);
        }
    }

    private final DefaultMQProducer producer = new DefaultMQProducer("peer_latency");
    private final String topic;
    private volatile Round[] rounds;

    private PeerLatency(String topic) {
        this.topic = topic;
    }

    public static void main(String[] args) throws Exception {
        PeerLatency peer = new PeerLatency(args[1]);
        int count = Integer.parseInt(args[2]);
        long intervalNanos = 1_000_000_000L / (args.length > 3 ? Integer.parseInt(args[3]) : 1000);
        peer.rounds = new Round[] {new Round(1), new Round(count), new Round(count)};
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer("peer_latency" + System.nanoTime());
        consumer.setNamesrvAddr(args[0]);
        consumer.subscribe(args[1], "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            long now = System.nanoTime();
            for (MessageExt message : messages) {
                peer.received(ByteBuffer.wrap(message.getBody()), now);
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        peer.producer.setNamesrvAddr(args[0]);
        peer.producer.start();
        consumer.start();
        boolean ready = peer.untilReceived();
        boolean complete = ready && peer.run(1, count, intervalNanos) && peer.run(2, count, intervalNanos);
        peer.print(peer.rounds[2], complete);
        consumer.shutdown();
        peer.producer.shutdown();
        System.exit(complete ? 0 : 1);
    }

    private void received(ByteBuffer body, long now) {
        long sent = body.getLong();
        Round round = rounds[body.getInt()];
        if (round.nanos.compareAndSet(body.getInt(), 0, now - sent)) {
            round.missing.countDown();
        }
    }

    private void send(int round, int index) throws Exception {
        byte[] body = ByteBuffer.allocate(BODY_BYTES).putLong(System.nanoTime()).putInt(round).putInt(index).array();
        producer.send(new Message(topic, body));
    }

    /** A new group starts at the end of the topic: send until the consumer has its queues and something arrives. */
    private boolean untilReceived() throws Exception {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(WAIT_S);
        while (System.nanoTime() < deadline) {
            send(0, 0);
            if (rounds[0].missing.await(50, TimeUnit.MILLISECONDS)) {
                return true;
            }
        }
        return false;
    }

    private boolean run(int round, int count, long intervalNanos) throws Exception {
        long start = System.nanoTime();
        for (int i = 0; i < count; i++) {
            long wait = start + i * intervalNanos - System.nanoTime();
            if (wait > 0) {
                LockSupport.parkNanos(wait);
            }
            send(round, i);
        }
        return rounds[round].missing.await(WAIT_S, TimeUnit.SECONDS);
    }

    private void print(Round round, boolean complete) {
        long[] nanos = new long[round.nanos.length()];
        Arrays.setAll(nanos, round.nanos::get);
        Arrays.sort(nanos);
        System.out.printf(Locale.ROOT, "{\"bench\": \"latency\", \"client\": \"java\", \"complete\": %b, \"messages\": %d, "
                + "\"p50_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f}%n",
            complete, nanos.length, nanos[nanos.length / 2] / 1e6, nanos[(int) (nanos.length * 0.99)] / 1e6,
            nanos[nanos.length - 1] / 1e6);
    }
}

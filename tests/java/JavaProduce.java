import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.message.Message;

/** Arguments: NAMESRV TOPIC COUNT. Sends numbered messages: a tenth one by one, a tenth asynchronously, the rest in batches. */
public final class JavaProduce {
    private static final int BATCH = 20;
    private static final int IN_FLIGHT = 50;

    public static void main(String[] args) throws Exception {
        int count = Integer.parseInt(args[2]);
        DefaultMQProducer producer = new DefaultMQProducer("java_producers");
        producer.setNamesrvAddr(args[0]);
        producer.setMqClientApiTimeout(30_000);
        producer.start();
        int number = 0;
        for (; number < count / 10; number++) {
            check(producer.send(message(args[1], number)));
        }
        number = sendAsynchronously(producer, args[1], number, count / 5);
        while (number < count) {
            List<Message> batch = new ArrayList<>();
            for (int end = Math.min(number + BATCH, count); number < end; number++) {
                batch.add(message(args[1], number));
            }
            check(producer.send(batch));
        }
        producer.shutdown();
        System.exit(0);
    }

    private static int sendAsynchronously(DefaultMQProducer producer, String topic, int from, int to) throws Exception {
        Semaphore inFlight = new Semaphore(IN_FLIGHT);
        CountDownLatch done = new CountDownLatch(to - from);
        AtomicInteger failed = new AtomicInteger();
        for (int number = from; number < to; number++) {
            inFlight.acquire();
            producer.send(message(topic, number), new SendCallback() {
                @Override
                public void onSuccess(SendResult result) {
                    end(result.getSendStatus() == SendStatus.SEND_OK ? 0 : 1);
                }

                @Override
                public void onException(Throwable error) {
                    end(1);
                }

                private void end(int failures) {
                    failed.addAndGet(failures);
                    inFlight.release();
                    done.countDown();
                }
            });
        }
        done.await();
        if (failed.get() > 0) {
            throw new IllegalStateException(failed + " asynchronous sends failed");
        }
        return to;
    }

    private static Message message(String topic, int number) {
        return new Message(topic, "T", "k" + number, Integer.toString(number).getBytes(StandardCharsets.UTF_8));
    }

    private static void check(SendResult result) {
        if (result.getSendStatus() != SendStatus.SEND_OK) {
            throw new IllegalStateException(result.toString());
        }
    }
}

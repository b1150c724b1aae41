import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.function.Predicate;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.consumer.ConsumeResult;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.consumer.PushConsumer;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.MessageBuilder;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.SendReceipt;
import org.apache.rocketmq.client.apis.producer.Transaction;
import org.apache.rocketmq.client.apis.producer.TransactionResolution;

/** The official Java gRPC client at work: what tests/grpc_clients/python_client.py does, with the same output. */
public final class GrpcClient {
    private static final long DELAY_MS = 2_000;
    private static final long WAIT_S = 40;

    private final ClientServiceProvider provider = ClientServiceProvider.loadService();
    private final ClientConfiguration configuration;
    private final String prefix;
    private final Producer producer;

    private GrpcClient(String endpoints, String prefix) throws Exception {
        this.configuration = ClientConfiguration.newBuilder().setEndpoints(endpoints).enableSsl(false).build();
        this.prefix = prefix;
        this.producer = provider.newProducerBuilder()
            .setClientConfiguration(configuration)
            .setTopics(topic("normal"), topic("simple"), topic("fifo"), topic("delay"), topic("transaction"))
            .setTransactionChecker(view -> {
                tell("checked", body(view));
                return TransactionResolution.COMMIT;
            })
            .build();
    }

    public static void main(String[] args) throws Exception {
        GrpcClient client = new GrpcClient(args[0], args[1]);
        List<Thread> threads = new ArrayList<>();
        for (Part part : Arrays.<Part>asList(client::push, client::simple, client::fifo, client::delay,
            client::transaction)) {
            Thread thread = new Thread(() -> told(part));
            thread.start();
            threads.add(thread);
        }
        for (Thread thread : threads) {
            thread.join();
        }
        tell("done");
        Runtime.getRuntime().halt(0); // its shutdown waits for its long polls
    }

    private interface Part {
        void run() throws Exception;
    }

    private static void told(Part part) {
        try {
            part.run();
        } catch (Throwable error) {
            StringWriter trace = new StringWriter();
            error.printStackTrace(new PrintWriter(trace));
            tell("error", trace.toString());
        }
    }

    private static synchronized void tell(Object... words) {
        System.out.println(Arrays.stream(words).map(GrpcClient::json).collect(Collectors.joining(", ", "[", "]")));
        System.out.flush();
    }

    private static String json(Object word) {
        if (word instanceof Number || word == null) {
            return String.valueOf(word);
        }
        if (word instanceof Map) {
            return ((Map<?, ?>) word).entrySet().stream()
                .map(entry -> json(entry.getKey()) + ": " + json(entry.getValue()))
                .collect(Collectors.joining(", ", "{", "}"));
        }
        if (word instanceof Iterable) {
            List<String> items = new ArrayList<>();
            ((Iterable<?>) word).forEach(item -> items.add(json(item)));
            return "[" + String.join(", ", items) + "]";
        }
        return '"' + word.toString().replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", "\\n")
            .replace("\t", " ").replace("\r", "") + '"';
    }

    private String topic(String kind) {
        return prefix + "-" + kind;
    }

    private static String body(MessageView view) {
        return StandardCharsets.UTF_8.decode(view.getBody()).toString();
    }

    private MessageBuilder message(String kind, String body) {
        return provider.newMessageBuilder().setTopic(topic(kind)).setBody(body.getBytes(StandardCharsets.UTF_8));
    }

    /** Tells every message; fails at those that say so, once or always. */
    private CountDownLatch consume(String kind, String tags, Predicate<List<String>> enough) throws Exception {
        CountDownLatch ended = new CountDownLatch(1);
        List<String> bodies = Collections.synchronizedList(new ArrayList<>());
        PushConsumer consumer = provider.newPushConsumerBuilder()
            .setClientConfiguration(configuration)
            .setConsumerGroup(topic(kind) + "-group")
            .setSubscriptionExpressions(Collections.singletonMap(topic(kind), new FilterExpression(tags)))
            .setMessageListener(view -> {
                String body = body(view);
                tell(kind, body, view.getDeliveryAttempt(), view.getTag().orElse(null), new TreeSet<>(view.getKeys()),
                    new TreeMap<>(view.getProperties()), view.getMessageGroup().orElse(null));
                boolean again = bodies.contains(body);
                bodies.add(body);
                if (enough.test(new ArrayList<>(bodies))) {
                    ended.countDown();
                }
                boolean fails = body.endsWith("always-fails") || body.endsWith("fails") && !again;
                return fails ? ConsumeResult.FAILURE : ConsumeResult.SUCCESS;
            })
            .build();
        assert consumer.getConsumerGroup() != null;
        return ended;
    }

    private static void await(CountDownLatch ended) throws InterruptedException {
        if (!ended.await(WAIT_S, TimeUnit.SECONDS)) {
            throw new IllegalStateException("not all messages came");
        }
    }

    private void push() throws Exception {
        for (int number = 0; number < 20; number++) {
            producer.send(message("normal", number == 3 ? "3 fails" : String.valueOf(number))
                .setTag(number % 4 != 0 ? "TagA" : "TagB").setKeys("key").addProperty("colour", "red").build());
        }
        await(consume("normal", "TagA", bodies -> bodies.size() >= 16));
    }

    private void simple() throws Exception {
        List<String> seen = new ArrayList<>();
        try (SimpleConsumer consumer = provider.newSimpleConsumerBuilder()
            .setClientConfiguration(configuration)
            .setConsumerGroup(topic("simple") + "-group")
            .setAwaitDuration(Duration.ofSeconds(5))
            .setSubscriptionExpressions(Collections.singletonMap(topic("simple"), FilterExpression.SUB_ALL))
            .build()) {
            for (String body : Arrays.asList("acked", "nacked")) {
                producer.send(message("simple", body).build());
            }
            long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(WAIT_S);
            while (Collections.frequency(seen, "nacked") < 2 && System.nanoTime() < deadline) {
                for (MessageView view : consumer.receive(16, Duration.ofSeconds(20))) {
                    String body = body(view);
                    seen.add(body);
                    tell("simple", body, view.getDeliveryAttempt());
                    if (body.equals("nacked") && view.getDeliveryAttempt() == 1) {
                        consumer.changeInvisibleDuration(view, Duration.ofSeconds(1));
                    } else {
                        consumer.ack(view);
                    }
                }
            }
        }
        Collections.sort(seen);
        tell("simple-ended", seen);
    }

    private void fifo() throws Exception {
        for (int number = 0; number < 12; number++) {
            String body = number + (number == 6 ? " always-fails" : number == 5 ? " fails" : "");
            producer.send(message("fifo", body).setMessageGroup("group" + number % 2).build());
        }
        await(consume("fifo", "*", bodies -> new HashSet<>(bodies).size() == 12));
    }

    private void delay() throws Exception {
        CountDownLatch ended = consume("delay", "*", bodies -> bodies.contains("delayed"));
        long due = System.currentTimeMillis() + DELAY_MS;
        producer.send(message("delay", "delayed").setDeliveryTimestamp(due).build());
        SendReceipt recalled = producer.send(message("delay", "recalled").setDeliveryTimestamp(due + 1_000).build());
        producer.recallMessage(topic("delay"), recalled.getRecallHandle());
        await(ended);
        tell("delay-ms", System.currentTimeMillis() - due);
        Thread.sleep(2_000); // for the one that must not come
    }

    private void transaction() throws Exception {
        CountDownLatch ended =
            consume("transaction", "*", bodies -> bodies.containsAll(Arrays.asList("committed", "left open")));
        for (String body : Arrays.asList("committed", "rolled back", "left open")) {
            Transaction transaction = producer.beginTransaction();
            producer.send(message("transaction", body).build(), transaction);
            if (body.equals("committed")) {
                transaction.commit();
            } else if (body.equals("rolled back")) {
                transaction.rollback();
            }
        }
        await(ended);
    }
}

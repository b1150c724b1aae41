import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import org.apache.rocketmq.client.QueryResult;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.utils.MessageUtil;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.remoting.protocol.heartbeat.MessageModel;

/**
 * Upstream's consumers of every kind and a producer, in one JVM, against one broker.
 *
 * <p>Arguments: NAMESRV TOPIC SUFFIX COUNT. The groups end with the suffix. Tells what each consumer gets and what the
 * producer is answered, tab-separated, a line each; ends when its standard input does.
 */
public final class JavaClients {
    private static final List<DefaultMQPushConsumer> CONSUMERS = new ArrayList<>();
    private static String namesrv;
    private static String topic;
    private static String suffix;

    public static void main(String[] args) throws Exception {
        namesrv = args[0];
        topic = args[1];
        suffix = args[2];
        int count = Integer.parseInt(args[3]);
        DefaultMQProducer producer = new DefaultMQProducer("producers-" + suffix);
        producer.setNamesrvAddr(namesrv);
        producer.setMqClientApiTimeout(30_000);
        producer.setSendMsgTimeout(20_000);
        producer.start();
        concurrent("concurrent", "concurrent", MessageModel.CLUSTERING, true, producer);
        concurrent("broadcast-1", "broadcast", MessageModel.BROADCASTING, true, producer);
        concurrent("broadcast-2", "broadcast", MessageModel.BROADCASTING, true, producer);
        concurrent("assigned", "assigned", MessageModel.CLUSTERING, false, producer);
        orderly();
        SendResult first = produce(producer, count);
        ask(producer, first);
        say("done");
        while (System.in.read() >= 0) {
            // only its end means something
        }
        for (DefaultMQPushConsumer consumer : CONSUMERS) {
            consumer.shutdown();
        }
        producer.shutdown();
        System.exit(0);
    }

    private static SendResult produce(DefaultMQProducer producer, int count) throws Exception {
        SendResult first = null;
        List<Message> batch = new ArrayList<>();
        for (int number = 0; number < count; number++) {
            Message message = message("sync-" + number);
            SendResult result = producer.send(message, (queues, m, arg) -> queues.get((int) arg % queues.size()), number);
            say("sent", result.getSendStatus().name());
            first = first == null ? result : first;
            batch.add(message("batch-" + number));
        }
        say("sent", producer.send(batch).getSendStatus().name());
        Message delayed = message("delayed");
        delayed.setDelayTimeLevel(1);
        say("sent", producer.send(delayed).getSendStatus().name());
        return first;
    }

    /** What a client may ask a broker besides; producers have these methods for the administration to use. */
    @SuppressWarnings("deprecation")
    private static void ask(DefaultMQProducer producer, SendResult first) throws Exception {
        MessageQueue queue = first.getMessageQueue();
        say("max offset", Boolean.toString(producer.maxOffset(queue) > 0));
        say("min offset", Long.toString(producer.minOffset(queue)));
        MessageExt byId = producer.viewMessage(topic, first.getOffsetMsgId());
        say("by id", body(byId));
        say("by unique id", body(producer.viewMessage(topic, first.getMsgId())));
        QueryResult byKey = producer.queryMessage(topic, "sync-0", 10, 0, Long.MAX_VALUE);
        say("by key", body(byKey.getMessageList().get(0)));
        say("earliest", Boolean.toString(producer.earliestMsgStoreTime(queue) == byId.getStoreTimestamp()));
        say("by time", Long.toString(producer.searchOffset(queue, 0)));
        Message reply = producer.request(message("request"), 30_000);
        say("reply", new String(reply.getBody(), StandardCharsets.UTF_8));
    }

    private static Message message(String body) {
        return new Message(topic, "T", body, body.getBytes(StandardCharsets.UTF_8));
    }

    private static DefaultMQPushConsumer consumer(String name, String group, MessageModel model) throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group + "-" + suffix);
        consumer.setNamesrvAddr(namesrv);
        consumer.setMqClientApiTimeout(30_000);
        consumer.setInstanceName(name);
        consumer.setMessageModel(model);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setHeartbeatBrokerInterval(1_000);
        consumer.subscribe(topic, "T");
        CONSUMERS.add(consumer);
        return consumer;
    }

    private static void concurrent(String name, String group, MessageModel model, boolean rebalance, DefaultMQProducer producer)
        throws Exception {
        DefaultMQPushConsumer consumer = consumer(name, group, model);
        consumer.setClientRebalance(rebalance);
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            for (MessageExt message : messages) {
                got(name, message);
                if (name.equals("concurrent") && body(message).equals("request")) {
                    reply(producer, message);
                }
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
    }

    private static void orderly() throws Exception {
        DefaultMQPushConsumer consumer = consumer("orderly", "orderly", MessageModel.CLUSTERING);
        consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
            for (MessageExt message : messages) {
                got("orderly", message);
            }
            return ConsumeOrderlyStatus.SUCCESS;
        });
        consumer.start();
    }

    private static void reply(DefaultMQProducer producer, MessageExt request) {
        try {
            producer.send(MessageUtil.createReplyMessage(request, "replied".getBytes(StandardCharsets.UTF_8)));
        } catch (Exception error) {
            say("error", error.toString());
        }
    }

    private static void got(String name, MessageExt message) {
        say("got", name, Integer.toString(message.getQueueId()), Long.toString(message.getQueueOffset()), body(message));
    }

    private static String body(MessageExt message) {
        return new String(message.getBody(), StandardCharsets.UTF_8);
    }

    private static synchronized void say(String... fields) {
        System.out.println(String.join("\t", fields));
        System.out.flush();
    }
}

import java.nio.charset.StandardCharsets;
import java.util.concurrent.CountDownLatch;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.utils.MessageUtil;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * Arguments: NAMESRV TOPIC ask TEXT, or NAMESRV TOPIC reply GROUP. "ask" prints the reply to TEXT; "reply" answers every
 * request with its body in upper case until it is killed.
 */
public final class JavaRequestReply {
    public static void main(String[] args) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer("java_" + args[2]);
        producer.setNamesrvAddr(args[0]);
        producer.setMqClientApiTimeout(30_000);
        producer.start();
        if (args[2].equals("ask")) {
            Message reply = producer.request(new Message(args[1], args[3].getBytes(StandardCharsets.UTF_8)), 30_000);
            System.out.println(new String(reply.getBody(), StandardCharsets.UTF_8));
        } else {
            answer(producer, args);
        }
        producer.shutdown();
        System.exit(0);
    }

    private static void answer(DefaultMQProducer producer, String[] args) throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(args[3]);
        consumer.setNamesrvAddr(args[0]);
        consumer.setMqClientApiTimeout(30_000);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        // Its first rebalance and its first timed heartbeat come at the same moment. When they collide, the heartbeat
        // that tells of the new subscription version is left out and the broker refuses its pulls until the next one.
        consumer.setHeartbeatBrokerInterval(1_000);
        consumer.subscribe(args[1], "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            for (MessageExt message : messages) {
                String text = new String(message.getBody(), StandardCharsets.UTF_8).toUpperCase();
                try {
                    producer.send(MessageUtil.createReplyMessage(message, text.getBytes(StandardCharsets.UTF_8)));
                } catch (Exception error) {
                    System.err.println(error);
                    return ConsumeConcurrentlyStatus.RECONSUME_LATER;
                }
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        System.out.println("started");
        System.out.flush();
        new CountDownLatch(1).await();
    }
}

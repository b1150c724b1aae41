import java.nio.charset.StandardCharsets;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.acl.common.AclClientRPCHook;
import org.apache.rocketmq.acl.common.SessionCredentials;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.remoting.RPCHook;

/** Arguments: NAMESRV TOPIC ACCESS_KEY SECRET_KEY COUNT. Sends and consumes with signed requests; says how it went. */
public final class JavaSigned {
    private static final int PATIENCE_MS = 30_000;

    public static void main(String[] args) {
        try {
            run(args);
            System.exit(0);
        } catch (Exception error) {
            error.printStackTrace();
            System.exit(1);
        }
    }

    private static void run(String[] args) throws Exception {
        int count = Integer.parseInt(args[4]);
        RPCHook hook = new AclClientRPCHook(new SessionCredentials(args[2], args[3]));
        DefaultMQProducer producer = new DefaultMQProducer("signed_producers", hook);
        producer.setNamesrvAddr(args[0]);
        producer.setMqClientApiTimeout(PATIENCE_MS);
        producer.setSendMsgTimeout(PATIENCE_MS);
        producer.start();
        try {
            for (int number = 0; number < count; number++) {
                byte[] body = ("größe " + number).getBytes(StandardCharsets.UTF_8);
                Message message = new Message(args[1], "Tag", "key " + number, body);
                message.putUserProperty("Zähler", "Ω" + number);
                producer.send(message);
            }
        } catch (MQClientException | MQBrokerException error) {
            Throwable cause = error.getCause() instanceof MQBrokerException ? error.getCause() : error;
            System.out.println("refused: " + cause.getMessage());
            return;
        }
        CountDownLatch left = new CountDownLatch(count);
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer("signed_consumers", hook);
        consumer.setNamesrvAddr(args[0]);
        consumer.setMqClientApiTimeout(PATIENCE_MS);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(args[1], "Tag || Grün");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            messages.forEach(message -> left.countDown());
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        boolean done = left.await(30, TimeUnit.SECONDS);
        consumer.shutdown();
        producer.shutdown();
        System.out.println(done ? "consumed all" : left.getCount() + " are missing");
    }
}

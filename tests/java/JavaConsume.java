import java.util.List;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * Arguments: NAMESRV TOPIC GROUP. Consumes until its standard input ends; a tenth fails at first. Says of each message, before
 * its listener returns: queue, offset, failures so far, id, verdict.
 */
public final class JavaConsume {
    public static void main(String[] args) throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(args[2]);
        consumer.setNamesrvAddr(args[0]);
        consumer.setMqClientApiTimeout(30_000);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        // The broker dies again and again: who it is for must be told soon.
        consumer.setHeartbeatBrokerInterval(500);
        consumer.setPersistConsumerOffsetInterval(500);
        consumer.setPullTimeDelayMillsWhenException(100);
        consumer.subscribe(args[1], "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> verdict(messages));
        consumer.start();
        say("started");
        while (System.in.read() >= 0) {
            // only its end means something
        }
        consumer.shutdown();
        System.exit(0);
    }

    private static ConsumeConcurrentlyStatus verdict(List<MessageExt> messages) {
        MessageExt one = messages.get(0);
        boolean fails = one.getReconsumeTimes() == 0 && one.getQueueOffset() % 10 == 0;
        say(String.join("\t", Integer.toString(one.getQueueId()), Long.toString(one.getQueueOffset()),
            Integer.toString(one.getReconsumeTimes()), one.getMsgId(), fails ? "failed" : "consumed"));
        return fails ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
    }

    private static synchronized void say(String line) {
        System.out.println(line);
        System.out.flush();
    }
}

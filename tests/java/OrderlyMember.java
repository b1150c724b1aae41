import java.nio.charset.StandardCharsets;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * An orderly member of a group that tells what its listener does, as tests/conformance/orderly_member.py does.
 *
 * <p>Arguments: NAMESRV TOPIC GROUP WORK_MS. Ends in good order when its standard input does.
 */
public final class OrderlyMember {
    public static void main(String[] args) throws Exception {
        int workMs = Integer.parseInt(args[3]);
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(args[2]);
        consumer.setNamesrvAddr(args[0]);
        consumer.setMqClientApiTimeout(30_000);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setHeartbeatBrokerInterval(1_000);
        consumer.setAwaitTerminationMillisWhenShutdown(5_000);
        consumer.subscribe(args[1], "*");
        consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
            MessageExt one = messages.get(0);
            String what = one.getQueueId() + "\t" + one.getQueueOffset() + "\t"
                + new String(one.getBody(), StandardCharsets.UTF_8) + "\t";
            say("begin\t" + what + System.nanoTime());
            try {
                Thread.sleep(workMs);
            } catch (InterruptedException e) {
                return ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT;
            }
            say("end\t" + what + System.nanoTime());
            return ConsumeOrderlyStatus.SUCCESS;
        });
        consumer.start();
        say("started");
        while (System.in.read() >= 0) {
            // only its end means something
        }
        consumer.shutdown();
        System.exit(0);
    }

    private static synchronized void say(String line) {
        System.out.println(line);
        System.out.flush();
    }
}

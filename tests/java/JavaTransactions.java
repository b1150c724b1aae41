import java.nio.charset.StandardCharsets;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.client.producer.TransactionSendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * Arguments: NAMESRV TOPIC. Sends four messages in transactions: one is committed and one rolled back at once, the others
 * when the broker has asked twice. Prints a line for each question: body, times asked, own property, transaction id known.
 */
public final class JavaTransactions {
    private static final CountDownLatch ENDED = new CountDownLatch(2);

    public static void main(String[] args) throws Exception {
        TransactionMQProducer producer = new TransactionMQProducer("java_transactions");
        producer.setNamesrvAddr(args[0]);
        producer.setMqClientApiTimeout(30_000);
        producer.setTransactionListener(new Listener());
        producer.start();
        for (String body : new String[] {"commit", "rollback", "commit later", "rollback later"}) {
            Message message = new Message(args[1], "T", "k " + body, body.getBytes(StandardCharsets.UTF_8));
            message.putUserProperty("own", body);
            TransactionSendResult sent = producer.sendMessageInTransaction(message, null);
            if (!sent.getTransactionId().equals(sent.getMsgId())) {
                throw new IllegalStateException(sent.toString());
            }
        }
        boolean all = ENDED.await(30, TimeUnit.SECONDS);
        Thread.sleep(300); // what is told one-way is on its way
        producer.shutdown();
        System.exit(all ? 0 : 1);
    }

    private static final class Listener implements TransactionListener {
        private final ConcurrentHashMap<String, Integer> asked = new ConcurrentHashMap<>();

        @Override
        public LocalTransactionState executeLocalTransaction(Message message, Object arg) {
            return state(text(message.getBody()), true);
        }

        @Override
        public LocalTransactionState checkLocalTransaction(MessageExt message) {
            String body = text(message.getBody());
            int times = asked.merge(body, 1, Integer::sum);
            System.out.println(String.join("|", body, message.getUserProperty("TRANSACTION_CHECK_TIMES"),
                message.getUserProperty("own"), 
                String.valueOf(message.getProperty("UNIQ_KEY").equals(message.getTransactionId()))));
            if (times < 2) {
                return LocalTransactionState.UNKNOW;
            }
            if (times == 2) {
                ENDED.countDown();
            }
            return state(body, false);
        }

        private static String text(byte[] body) {
            return new String(body, StandardCharsets.UTF_8);
        }

        private static LocalTransactionState state(String body, boolean first) {
            if (first && body.endsWith("later")) {
                return LocalTransactionState.UNKNOW;
            }
            return body.startsWith("commit") ? LocalTransactionState.COMMIT_MESSAGE : LocalTransactionState.ROLLBACK_MESSAGE;
        }
    }
}

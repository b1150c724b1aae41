import java.io.IOException;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.consumer.AllocateMessageQueueStrategy;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMachineRoomNearby;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueAveragely;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueAveragelyByCircle;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueByConfig;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueByMachineRoom;
import org.apache.rocketmq.client.consumer.rebalance.AllocateMessageQueueConsistentHash;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * Runs upstream's allocate strategies on commands from standard input: one answer line per command line.
 *
 * <p>Answers are written when the line "." comes: the strategy's name and the queues, or {@code !ClassName message} for an
 * exception. A command is STRATEGY|ARGUMENT|CLIENT|QUEUES|CLIENTS. Lists are separated by commas; a queue is written as
 * TOPIC/BROKER/ID. The strategies, with what their argument is:
 *
 * <pre>
 * AVG, AVG_BY_CIRCLE   nothing
 * CONFIG               the configured queues
 * MACHINE_ROOM         rooms
 * HASH                 virtual nodes
 * STRING_HASH          virtual nodes, placed by Java's hash of strings
 * NEARBY               the strategy inside; a room is the first letter of a broker's name or of a client id
 * </pre>
 */
public final class AllocateDriver {
    private AllocateDriver() {
    }

    public static void main(String[] args) throws IOException {
        CommandLoop.run(line -> answer(line.split("\\|", -1)));
    }

    private static String answer(String[] words) {
        try {
            AllocateMessageQueueStrategy strategy = strategy(words[0], words[1]);
            List<MessageQueue> found = strategy.allocate("group", words[2], queues(words[3]), list(words[4]));
            return strategy.getName() + " "
                + found.stream().map(AllocateDriver::word).collect(Collectors.joining(","));
        } catch (RuntimeException e) {
            return "!" + e.getClass().getSimpleName() + " " + e.getMessage();
        }
    }

    private static AllocateMessageQueueStrategy strategy(String name, String argument) {
        switch (name) {
            case "AVG":
                return new AllocateMessageQueueAveragely();
            case "AVG_BY_CIRCLE":
                return new AllocateMessageQueueAveragelyByCircle();
            case "CONFIG":
                AllocateMessageQueueByConfig byConfig = new AllocateMessageQueueByConfig();
                byConfig.setMessageQueueList(queues(argument));
                return byConfig;
            case "MACHINE_ROOM":
                AllocateMessageQueueByMachineRoom byRoom = new AllocateMessageQueueByMachineRoom();
                byRoom.setConsumeridcs(new HashSet<>(list(argument)));
                return byRoom;
            case "HASH":
                return new AllocateMessageQueueConsistentHash(Integer.parseInt(argument));
            case "STRING_HASH":
                return new AllocateMessageQueueConsistentHash(Integer.parseInt(argument), String::hashCode);
            case "NEARBY":
                return new AllocateMachineRoomNearby(strategy(argument, "3"), new FirstLetter());
            default:
                throw new IllegalArgumentException(name);
        }
    }

    private static List<String> list(String words) {
        return words.isEmpty() ? List.of() : Arrays.asList(words.split(",", -1));
    }

    private static List<MessageQueue> queues(String words) {
        return list(words).stream().map(AllocateDriver::queue).collect(Collectors.toList());
    }

    private static MessageQueue queue(String word) {
        String[] parts = word.split("/", -1);
        return new MessageQueue(parts[0], parts[1], Integer.parseInt(parts[2]));
    }

    private static String word(MessageQueue queue) {
        return queue.getTopic() + "/" + queue.getBrokerName() + "/" + queue.getQueueId();
    }

    private static final class FirstLetter implements AllocateMachineRoomNearby.MachineRoomResolver {
        @Override
        public String brokerDeployIn(MessageQueue messageQueue) {
            return first(messageQueue.getBrokerName());
        }

        @Override
        public String consumerDeployIn(String clientId) {
            return first(clientId);
        }

        /** Nobody knows where those with a question mark are. */
        private static String first(String name) {
            return name.startsWith("?") ? "" : name.substring(0, 1);
        }
    }
}

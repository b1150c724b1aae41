import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import org.apache.rocketmq.client.impl.consumer.ProcessQueue;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * Upstream's ProcessQueue: nanoseconds per message for putMessage and removeMessage.
 *
 * <p>Arguments: MESSAGES ROUNDS. One JSON line per pattern, window and batch size; the time is that of the fastest round.
 *
 * <p>The steps are made before the clock starts, so that only the two methods are timed, and they are the same in every
 * language: messages 0..MESSAGES-1 are put in blocks of 32 whenever the window has room for a block (or holds at most one
 * message); else BATCH of the pending ones (or all, if fewer) are removed, chosen by the pattern:
 *
 * <ul>
 * <li>in_order: the lowest ones;
 * <li>random: BATCH times the pending one at index (x >>> 33) mod pending.size(), the last one taking its place, where x
 *     is a 64-bit number that starts as 7 and is first set to x * 6364136223846793005 + 1442695040888963407;
 * <li>stuck_head: the lowest ones except message 0, which is removed at the very end; a removal that would need it before
 *     that is shorter.
 * </ul>
 *
 * <p>The checksum starts as 0 and becomes checksum * 31 + returned offset (64 bits, shown unsigned) at each removal.
 */
public final class PQBench {
    private static final int BLOCK = 32;
    private static final int BODY_BYTES = 1024;

    private record Step(boolean put, List<MessageExt> messages) {
    }

    private PQBench() {
    }

    public static void main(String[] args) {
        int count = Integer.parseInt(args[0]);
        int rounds = Integer.parseInt(args[1]);
        List<MessageExt> messages = new ArrayList<>(count);
        byte[] body = new byte[BODY_BYTES];
        for (int i = 0; i < count; i++) {
            MessageExt message = new MessageExt();
            message.setQueueOffset(i);
            message.setBody(body);
            messages.add(message);
        }
        for (String pattern : List.of("in_order", "random", "stuck_head")) {
            for (int window : new int[] {32, 1_000, 10_000}) {
                for (int batch : new int[] {1, 32}) {
                    measure(messages, pattern, window, batch, rounds);
                }
            }
        }
    }

    private static void measure(List<MessageExt> messages, String pattern, int window, int batch, int rounds) {
        List<Step> steps = steps(messages, pattern, window, batch);
        long best = Long.MAX_VALUE;
        long checksum = 0;
        for (int round = 0; round < rounds; round++) {
            ProcessQueue queue = new ProcessQueue();
            checksum = 0;
            long start = System.nanoTime();
            for (Step step : steps) {
                if (step.put()) {
                    queue.putMessage(step.messages());
                } else {
                    checksum = checksum * 31 + queue.removeMessage(step.messages());
                }
            }
            best = Math.min(best, System.nanoTime() - start);
        }
        System.out.printf(Locale.ROOT, "{\"bench\": \"process_queue\", \"client\": \"java\", \"pattern\": \"%s\", \"window\": %d, "
                + "\"batch\": %d, \"messages\": %d, \"ns_per_message\": %.1f, \"checksum\": %s}%n",
            pattern, window, batch, messages.size(), best / (double) messages.size(), Long.toUnsignedString(checksum));
    }

    private static List<Step> steps(List<MessageExt> messages, String pattern, int window, int batch) {
        List<Step> steps = new ArrayList<>();
        List<MessageExt> pending = new ArrayList<>();
        int first = 0;
        int next = 0;
        long x = 7;
        while (next < messages.size() || first < pending.size()) {
            int size = pending.size() - first;
            if (next < messages.size() && (size + BLOCK <= window || size <= 1)) {
                List<MessageExt> block = messages.subList(next, Math.min(messages.size(), next + BLOCK));
                steps.add(new Step(true, block));
                pending.addAll(block);
                next += block.size();
                continue;
            }
            List<MessageExt> removed = new ArrayList<>(Math.min(batch, size));
            for (int i = Math.min(batch, size); i > 0; i--) {
                if (pattern.equals("random")) {
                    x = x * 6364136223846793005L + 1442695040888963407L;
                    int index = (int) ((x >>> 33) % pending.size());
                    MessageExt last = pending.remove(pending.size() - 1);
                    removed.add(index == pending.size() ? last : pending.set(index, last));
                } else if (pattern.equals("stuck_head") && pending.size() - first > 1) {
                    removed.add(pending.set(first + 1, pending.get(first)));
                    first++;
                } else if (pattern.equals("stuck_head") && next < messages.size()) {
                    break;
                } else {
                    removed.add(pending.get(first++));
                }
            }
            steps.add(new Step(false, removed));
        }
        return steps;
    }
}

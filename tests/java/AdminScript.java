import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.lang.reflect.Field;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import org.apache.rocketmq.tools.command.MQAdminStartup;

/**
 * Upstream's mqadmin, many commands in one JVM: one a line on standard input, its arguments separated by tabs. After what
 * a command prints comes a line with a single full stop.
 */
public final class AdminScript {
    public static void main(String[] args) throws Exception {
        System.setErr(System.out);
        Thread commander = Thread.currentThread();
        Thread waker = new Thread(() -> wakeEventThreads(commander));
        waker.setDaemon(true);
        waker.start();
        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        // Commands keep their producers and consumers, which start only once: each line gets new ones.
        Field known = MQAdminStartup.class.getDeclaredField("SUB_COMMANDS");
        known.setAccessible(true);
        for (String line = commands.readLine(); line != null; line = commands.readLine()) {
            ((Collection<?>) known.get(null)).clear();
            MQAdminStartup.main0(line.split("\t", -1), null);
            System.out.println();
            System.out.println(".");
            System.out.flush();
        }
        System.exit(0);
    }

    /** A client ends up to 3 s late, until a thread has waited for its next event: an interrupt ends that wait. */
    private static void wakeEventThreads(Thread commander) {
        try {
            while (true) {
                Thread.sleep(50);
                boolean ending = Arrays.stream(commander.getStackTrace())
                    .anyMatch(frame -> frame.getClassName().endsWith("NettyRemotingClient") && frame.getMethodName().equals("shutdown"));
                for (Thread thread : ending ? Thread.getAllStackTraces().keySet() : Collections.<Thread>emptySet()) {
                    if (thread.getName().startsWith("NettyEventExecutor")) {
                        thread.interrupt();
                    }
                }
            }
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }
}

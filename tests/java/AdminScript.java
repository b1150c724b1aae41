import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import org.apache.rocketmq.tools.command.MQAdminStartup;

/**
 * Upstream's mqadmin, many commands in one JVM: one a line on standard input, its arguments separated by tabs. After what
 * a command prints comes a line with a single full stop.
 */
public final class AdminScript {
    public static void main(String[] args) throws Exception {
        System.setErr(System.out);
        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = commands.readLine(); line != null; line = commands.readLine()) {
            MQAdminStartup.main0(line.split("\t", -1), null);
            System.out.println();
            System.out.println(".");
            System.out.flush();
        }
        System.exit(0);
    }
}

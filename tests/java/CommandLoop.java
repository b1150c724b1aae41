import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.nio.charset.StandardCharsets;

/**
 * What all drivers share: command lines from standard input, one answer line for each.
 *
 * <p>Answers are written when the line "." comes. An exception is answered as {@code !ClassName}.
 */
final class CommandLoop {
    /** Answers one command. */
    interface Driver {
        Object answer(String line) throws Exception;
    }

    private CommandLoop() {
    }

    /** Runs until standard input ends. */
    static void run(Driver driver) throws IOException {
        PrintStream out = System.out;
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        StringBuilder answers = new StringBuilder();
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            if (line.equals(".")) {
                out.write(answers.toString().getBytes(StandardCharsets.UTF_8));
                out.flush();
                answers.setLength(0);
            } else {
                answers.append(answer(driver, line)).append('\n');
            }
        }
    }

    private static Object answer(Driver driver, String line) {
        try {
            return driver.answer(line);
        } catch (InvocationTargetException e) {
            return "!" + e.getCause().getClass().getSimpleName();
        } catch (Exception e) {
            return "!" + e.getClass().getSimpleName();
        }
    }
}

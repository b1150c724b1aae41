import java.lang.reflect.InvocationTargetException;
import java.util.Arrays;

/**
 * Runs one of our programs, the first argument, with the others, and ends the JVM when its main method throws.
 *
 * <p>Left to itself such a JVM lives on in silence: upstream's clients have threads that are no daemons.
 */
public final class Launch {
    public static void main(String[] args) throws Exception {
        try {
            Class<?> program = Class.forName(args[0]);
            program.getMethod("main", String[].class).invoke(null, (Object) Arrays.copyOfRange(args, 1, args.length));
        } catch (InvocationTargetException thrown) {
            thrown.getCause().printStackTrace();
            System.exit(1);
        }
    }
}

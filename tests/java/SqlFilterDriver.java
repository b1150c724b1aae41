import java.io.IOException;
import java.lang.reflect.Constructor;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.HashMap;
import java.util.Map;
import org.apache.rocketmq.broker.filter.MessageEvaluationContext;
import org.apache.rocketmq.filter.SqlFilter;
import org.apache.rocketmq.filter.expression.Expression;
import org.apache.rocketmq.filter.parser.SelectorParser;

/**
 * Has upstream's SqlFilter read and evaluate expressions from standard input: one answer line per command line.
 *
 * <p>By {@link CommandLoop}. A command is an expression, then a name and a value for each property,
 * all in Base64 and separated by spaces. The answer is {@code refused}, {@code trailing} for an expression behind whose
 * end there is something that upstream does not look at, or what it evaluates to: {@code true}, {@code false} or
 * {@code null}; {@code null}, too, when evaluating throws.
 */
public final class SqlFilterDriver {
    private SqlFilterDriver() {
    }

    public static void main(String[] args) throws IOException, ReflectiveOperationException {
        CommandLoop.run(line -> answer(line.split(" ")));
    }

    private static String answer(String[] words) throws ReflectiveOperationException {
        String text = decoded(words[0]);
        Expression expression;
        try {
            expression = new SqlFilter().compile(text);
        } catch (Exception e) {
            return "refused";
        }
        if (!endsThere(text)) {
            return "trailing";
        }
        Map<String, String> properties = new HashMap<>();
        for (int i = 1; i < words.length; i += 2) {
            properties.put(decoded(words[i]), decoded(words[i + 1]));
        }
        try {
            return String.valueOf(expression.evaluate(new MessageEvaluationContext(properties)));
        } catch (Exception e) {
            return "null";
        }
    }

    private static boolean endsThere(String text) throws ReflectiveOperationException {
        Constructor<SelectorParser> constructor = SelectorParser.class.getDeclaredConstructor(String.class);
        constructor.setAccessible(true);
        SelectorParser parser = constructor.newInstance(text);
        try {
            parser.JmsSelector();
            return parser.getNextToken().kind == 0;
        } catch (Exception | Error e) {
            return false;
        }
    }

    private static String decoded(String word) {
        return word.equals("-") ? "" : new String(Base64.getDecoder().decode(word), StandardCharsets.UTF_8);
    }
}

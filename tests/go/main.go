// Upstream's Go client v2: consumers of every kind and a producer, in one process, against one broker.
//
// Arguments: NAMESRV TOPIC SUFFIX COUNT. The groups end with the suffix. Tells what each consumer gets and what the producer
// is answered, tab-separated, a line each; ends when its standard input does.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
	"github.com/apache/rocketmq-client-go/v2/rlog"
)

var output sync.Mutex

func say(fields ...string) {
	output.Lock()
	defer output.Unlock()
	fmt.Println(strings.Join(fields, "\t"))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type clients struct {
	namesrv, topic, suffix string
	last                   string // fails once at the concurrent consumer
	failed                 sync.Once
}

func (c *clients) consume(name string, options ...consumer.Option) rocketmq.PushConsumer {
	options = append(options,
		consumer.WithNameServer([]string{c.namesrv}),
		consumer.WithGroupName(name+"-"+c.suffix),
		consumer.WithInstance(name),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset))
	push, err := rocketmq.NewPushConsumer(options...)
	check(err)
	selector := consumer.MessageSelector{Type: consumer.TAG, Expression: "T"}
	check(push.Subscribe(c.topic, selector, func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		result := consumer.ConsumeSuccess
		for _, message := range messages {
			body := string(message.Body)
			if name == "concurrent" && body == c.last {
				c.failed.Do(func() {
					say("failed", body)
					result = consumer.ConsumeRetryLater
				})
				if result == consumer.ConsumeRetryLater {
					continue
				}
			}
			queue := message.Queue.QueueId
			say("got", name, strconv.Itoa(queue), strconv.FormatInt(message.QueueOffset, 10), body)
		}
		return result, nil
	}))
	check(push.Start())
	return push
}

func (c *clients) message(body string) *primitive.Message {
	return primitive.NewMessage(c.topic, []byte(body)).WithTag("T").WithKeys([]string{body})
}

func (c *clients) produce(count int) {
	sender, err := rocketmq.NewProducer(
		producer.WithNameServer([]string{c.namesrv}),
		producer.WithGroupName("producers-"+c.suffix),
		producer.WithInstanceName("producer"),
		producer.WithQueueSelector(producer.NewRoundRobinQueueSelector()))
	check(err)
	check(sender.Start())
	send := func(messages ...*primitive.Message) {
		result, err := sender.SendSync(context.Background(), messages...)
		check(err)
		say("sent", strconv.Itoa(int(result.Status)))
	}
	var batch []*primitive.Message
	for number := 0; number < count; number++ {
		send(c.message(fmt.Sprintf("sync-%d", number)))
		batch = append(batch, c.message(fmt.Sprintf("batch-%d", number)))
	}
	send(batch...)
	send(c.message("delayed").WithDelayTimeLevel(1))
	check(sender.Shutdown())
}

func main() {
	rlog.SetLogLevel("error")
	count, err := strconv.Atoi(os.Args[4])
	check(err)
	c := &clients{namesrv: os.Args[1], topic: os.Args[2], suffix: os.Args[3], last: fmt.Sprintf("sync-%d", count-1)}
	consumers := []rocketmq.PushConsumer{
		c.consume("concurrent"),
		c.consume("broadcast", consumer.WithConsumerModel(consumer.BroadCasting)),
		c.consume("orderly", consumer.WithConsumerOrder(true)),
	}
	c.produce(count)
	say("done")
	_, err = io.Copy(io.Discard, os.Stdin)
	check(err)
	for _, push := range consumers {
		check(push.Shutdown())
	}
}

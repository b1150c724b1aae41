// The same work as PeerConsume.java, by upstream's Go client v2 with its default settings.
//
// Arguments: NAMESRV TOPIC GROUP MESSAGES BATCH TIMEOUT_S. Prints one JSON line: seconds from start to the first message, from
// there to the last, and the rate over the latter. The exit code is 1 when not all came.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/rlog"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func number(index int) int64 {
	value, err := strconv.ParseInt(os.Args[index], 10, 64)
	check(err)
	return value
}

func main() {
	rlog.SetLogLevel("error")
	wanted, batch, timeout := number(4), int(number(5)), time.Duration(number(6))*time.Second
	var count atomic.Int64
	var first time.Time
	var begun, ended sync.Once
	done := make(chan struct{})
	push, err := rocketmq.NewPushConsumer(
		consumer.WithNameServer([]string{os.Args[1]}),
		consumer.WithGroupName(os.Args[3]),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset),
		consumer.WithConsumeMessageBatchMaxSize(batch))
	check(err)
	listen := func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		begun.Do(func() { first = time.Now() })
		if count.Add(int64(len(messages))) >= wanted {
			ended.Do(func() { close(done) })
		}
		return consumer.ConsumeSuccess, nil
	}
	check(push.Subscribe(os.Args[2], consumer.MessageSelector{}, listen))
	start := time.Now()
	check(push.Start())
	select {
	case <-done:
	case <-time.After(timeout):
	}
	seconds := time.Since(first).Seconds()
	check(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"bench": "consume", "client": "go", "batch": batch, "complete": count.Load() >= wanted, "messages": count.Load(),
		"first_message_s": first.Sub(start).Seconds(), "seconds": seconds, "per_second": float64(count.Load()) / seconds,
	}))
	if count.Load() < wanted {
		os.Exit(1)
	}
}

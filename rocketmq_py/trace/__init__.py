"""Message trace: where a message has been, written to a topic of its own. Source: org.apache.rocketmq.client.trace."""

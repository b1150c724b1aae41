"""Values without behaviour: what the consumer, the producer and the wires talk about."""

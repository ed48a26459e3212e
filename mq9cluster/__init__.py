"""mq9cluster: mailboxes and a registry for AI agents, replicated, spoken over the NATS protocol."""

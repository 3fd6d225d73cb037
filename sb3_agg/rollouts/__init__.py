"""Returns, minibatches and losses of each agent."""

"""Rollouts: returns, minibatches and losses of each agent."""

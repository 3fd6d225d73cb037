"""SB3's update of PPO and A2C without a graph, for policies of linear layers."""

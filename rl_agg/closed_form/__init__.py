"""Multilayer perceptrons evaluated and differentiated without a graph: forward passes, derivatives and steps written out."""

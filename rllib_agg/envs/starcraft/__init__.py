"""SMAC and its relatives."""

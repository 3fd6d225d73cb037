"""Team environments behind one interface."""

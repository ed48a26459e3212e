"""What goes wrong: one module per kind of fault."""

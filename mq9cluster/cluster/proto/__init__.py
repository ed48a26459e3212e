"""Generated from proto/*.proto; `make proto` makes it anew."""

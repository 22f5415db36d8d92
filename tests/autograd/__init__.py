"""The engine's own tests. `sampling` draws inputs for every row of the table; tests/torch_oracle uses it too."""

"""Tests of the compiler of cells, and what they share."""

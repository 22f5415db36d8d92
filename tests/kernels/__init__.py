"""Tests of what runs hot, and what they share."""
